import BlockCore
import Failures
import Model
import Repositories

/// The grains of a target that aren't what a backup holds: what a restore has to write, as regions of the backup.
///
/// The target is read where both may hold data. Where it reads as zeroes for certain, and where the backup does, hashes
/// and block status tell without reading. It is read ahead of what is written, and no grain of it after that was given
/// out. Confined to the copy that asks.
struct DifferingRegions: Regions, @unchecked Sendable {
  // Safe to hand over: confined to the copy that asks, and to its loop.

  private static let grain = UInt64(HashTree.grainByteCount)

  private let target: any BlockDevice
  private let name: String
  private let hashes: HashTreeReader
  private let hashesName: String
  private let work: any BackgroundWork
  private let chunk = Chunk()
  private var next: UInt64 = 0
  private var known: ArraySlice<Region> = []

  /// - Parameters:
  ///   - target: takes any request, and is as long as what the backup holds, or a bit longer.
  ///   - name, hashesName: what a person knows the target and the hashes by.
  init(
    of target: any BlockDevice, _ name: String, from hashes: HashTreeReader, _ hashesName: String,
    work: any BackgroundWork
  ) {
    self.target = target
    self.name = name
    self.hashesName = hashesName
    self.hashes = hashes
    self.work = work
  }

  /// Leaves that are read and hashed at once.
  private var leavesAtOnce: UInt64 { UInt64(chunk.geometry.chunk / chunk.geometry.grain) }

  nonisolated(nonsending)
    mutating func next(_ checkpoint: () async throws -> Void) async throws -> Region?
  {
    while known.isEmpty {
      guard next < hashes.tree.leafCount else { return nil }
      try await checkpoint()
      do {
        try await look()
      } catch let error as BlockError {
        throw DomainError(error, of: name)
      } catch let failure as HashTreeReader.Failure {
        throw DomainError(failure, of: hashesName)
      }
    }
    return known.popFirst()
  }

  /// Judges the next leaves, one at least.
  nonisolated(nonsending)
    private mutating func look() async throws
  {
    let tree = hashes.tree
    let rest = ByteRange(tree.grain(next).lowerBound..<tree.byteCount)
    let whole = rest.aligned(to: UInt64(target.limits.requestAlignment))
    let status = try await target.blockStatus(ByteRange(whole.offset..<min(whole.end, target.byteCount)), limit: 1)
    guard let extent = status.first, extent.range.offset <= rest.offset, extent.range.end > rest.offset else {
      return try await compare(next..<min(next + leavesAtOnce, tree.leafCount))
    }
    // A grain that an extent ends in is its last where the disk ends there, too.
    let isLast = extent.range.end >= tree.byteCount
    let end = isLast ? tree.leafCount : extent.range.end / Self.grain
    guard extent.readsAsZero, end > next else {
      let covered = min(max(end, next + 1), next + leavesAtOnce)
      return try await compare(next..<min(covered, tree.leafCount))
    }
    try await fill(next..<end)
  }

  /// Leaves that the target reads as zeroes.
  nonisolated(nonsending)
    private mutating func fill(_ leaves: Range<UInt64>) async throws
  {
    guard let first = try await hashes.firstDataLeaf(in: leaves) else { return give(leaves, .unchanged) }
    if first > leaves.lowerBound { return give(leaves.lowerBound..<first, .unchanged) }
    let some = first..<min(first + leavesAtOnce, leaves.upperBound)
    let data = try await hashes.leaves(some).prefix { $0 != .zero }.count
    give(first..<first + UInt64(data), .data)
  }

  nonisolated(nonsending)
    private mutating func compare(_ leaves: Range<UInt64>) async throws
  {
    let chunk = chunk
    try await chunk.begin(CopyStep(range: range(of: leaves), action: .copy), from: target)
    await work.run { chunk.process(nil) }
    let damaged = Set(chunk.damages.map { chunk.geometry.leaves(of: $0.range).lowerBound })
    let expected = try await hashes.leaves(leaves)
    for (index, leaf) in leaves.enumerated() {
      let isSame = chunk.leaves[index] == expected[index] && !damaged.contains(leaf)
      give(leaf..<leaf + 1, isSame ? .unchanged : expected[index] == .zero ? .zeroes : .data)
    }
  }

  private func range(of leaves: Range<UInt64>) -> ByteRange {
    let tree = hashes.tree
    return ByteRange(tree.grain(leaves.lowerBound).lowerBound..<tree.grain(leaves.upperBound - 1).upperBound)
  }

  private mutating func give(_ leaves: Range<UInt64>, _ content: Region.Content) {
    let range = range(of: leaves)
    next = leaves.upperBound
    if let last = known.last, last.content == content, last.range.end == range.offset {
      known[known.endIndex - 1].range.length += range.length
    } else {
      known.append(Region(range: range, content: content))
    }
  }
}
