import Bytes
import BlockCore
import Buffers
import Glibc
import Qcow2
import Repositories

/// One step of a copy on its way: what was read, and what the worker made of it.
///
/// Its memory is used again for another step. One lane owns it; the worker has it while the lane waits.
package final class Chunk: @unchecked Sendable {
  // Safe to hand over: exactly one of lane, worker and sink uses it at a time.

  /// A stretch of bytes that couldn't be read because what stores them is damaged.
  package struct Damage: Hashable, Sendable {
    package var range: ByteRange
    package var text: String
  }

  package let geometry: ChunkGeometry
  package private(set) var step = CopyStep(range: ByteRange(offset: 0, length: 0), action: .skip)
  /// Made when the first step is read.
  private var input: UnsafeMutableRawPointer?
  /// Made when the first cluster is compressed.
  private var output: UnsafeMutableRawPointer?
  /// One for each grain that was read.
  package private(set) var leaves: [Digest] = []
  /// What the target builds on, and isn't stored; nil if all is.
  private var base: KnownBase?
  /// Of a step of zeroes: where they are to be stored.
  package private(set) var zeroRanges: [ByteRange] = []
  package private(set) var damages: [Damage] = []
  /// Clusters that shrank, packed in ``compressedBytes`` in this order.
  package private(set) var compressed: [CompressedCluster] = []
  private var compressedByteCount = 0

  package init(_ geometry: ChunkGeometry = .standard) { self.geometry = geometry }

  deinit {
    input?.deallocate()
    output?.deallocate()
  }

  package var range: ByteRange { step.range }
  /// The leaves that the step is about.
  package var leafRange: Range<UInt64> { geometry.leaves(of: step.range) }
  /// Bytes that were read.
  private var count: Int { step.action == .copy ? Int(step.range.length) : 0 }

  /// What was read.
  package var bytes: RawSpan {
    @_lifetime(borrow self)
    get {
      guard let input else { return _overrideLifetime(RawSpan(), borrowing: self) }
      return _overrideLifetime(RawSpan(_unsafeStart: input, byteCount: count), borrowing: self)
    }
  }

  /// Begins a step, and reads what it is to copy. Where the device says that this is damaged, the rest is read grain by
  /// grain.
  /// - Parameter base: see ``CopySink/base(of:)``.
  nonisolated(nonsending)
    package func begin(
      _ step: CopyStep, over base: KnownBase? = nil, from device: any BlockDevice
    ) async throws(BlockError)
  {
    self.step = step
    self.base = base
    zeroRanges = step.action == .zero ? [step.range] : []
    leaves.removeAll(keepingCapacity: true)
    damages.removeAll()
    compressed.removeAll(keepingCapacity: true)
    compressedByteCount = 0
    guard step.action == .copy else { return }
    precondition(count <= geometry.chunk)
    do throws(BlockError) {
      try await read(0..<count, from: device)
    } catch {
      guard case .corrupt = error.kind else { throw error }
      try await readByGrain(from: device)
    }
  }

  nonisolated(nonsending)
    private func read(_ part: Range<Int>, from device: any BlockDevice) async throws(BlockError)
  {
    let input = input ?? .allocate(byteCount: geometry.chunk, alignment: pageByteCount)
    self.input = input
    var span = MutableRawSpan(_unsafeStart: input + part.lowerBound, byteCount: part.count)
    try await device.read(into: &span, at: range.offset + UInt64(part.lowerBound))
  }

  nonisolated(nonsending)
    private func readByGrain(from device: any BlockDevice) async throws(BlockError)
  {
    for start in stride(from: 0, to: count, by: geometry.grain) {
      let part = start..<min(start + geometry.grain, count)
      do throws(BlockError) {
        try await read(part, from: device)
      } catch {
        guard case .corrupt(let text) = error.kind else { throw error }
        damages.append(
          Damage(range: ByteRange(offset: range.offset + UInt64(start), length: UInt64(part.count)), text: text))
      }
    }
  }

  /// Hashes each grain, and compresses each cluster that isn't zero. Runs on a worker.
  package func process(_ compressors: CompressorShelf?) {
    guard let input else { return }
    // The last cluster of an image is stored whole.
    let padded = (count + geometry.cluster - 1) / geometry.cluster * geometry.cluster
    memset(input + count, 0, padded - count)
    for start in stride(from: 0, to: count, by: geometry.grain) {
      let end = min(start + geometry.grain, count)
      leaves.append(HashTree.leaf(of: RawSpan(_unsafeStart: input + start, byteCount: end - start)))
    }
    if let compressors { _ = compressors.with { compress(input, with: $0) } }
  }

  private func compress(_ input: UnsafeMutableRawPointer, with compressor: ClusterCompressor) {
    let size = geometry.cluster
    let output = output ?? .allocate(byteCount: geometry.chunk + size, alignment: pageByteCount)
    self.output = output
    for start in stride(from: 0, to: count, by: size) {
      let part = start..<min(start + size, count)
      guard !isUnchanged(part), !isZero(part) else { continue }
      // A cluster is compressed whole. Where little of it has changed, that is stored alone, as it is.
      let plain = changedByteCount(in: part)
      guard plain * Self.worthwhileRatio > part.count else { continue }
      var room = MutableRawSpan(_unsafeStart: output + compressedByteCount, byteCount: size)
      guard let shrunk = compressor.compress(RawSpan(_unsafeStart: input + start, byteCount: size), into: &room),
        shrunk < plain
      else { continue }
      compressed.append(CompressedCluster(guestOffset: range.offset + UInt64(start), byteCount: shrunk))
      compressedByteCount += shrunk
    }
  }

  /// A cluster is hardly ever compressed to less than the inverse of this.
  private static let worthwhileRatio = 8

  /// Bytes of a part of what was read that may differ from the target's base.
  private func changedByteCount(in part: Range<Int>) -> Int {
    guard let changes = base?.changes else { return part.count }
    return changes.reduce(0) { $0 + $1.clamped(to: part).count }
  }

  /// Whether a part of what was read is zero: told by the leaves where these do.
  private func isZero(_ part: Range<Int>) -> Bool {
    let grain = geometry.grain
    if leaves[part.lowerBound / grain...(part.upperBound - 1) / grain].allSatisfy({ $0 == .zero }) { return true }
    let isWhole = part.lowerBound % grain == 0 && (part.upperBound % grain == 0 || part.upperBound == count)
    return !isWhole && bytes.extracting(part).isZero
  }

  /// Whether the target's base holds a part of what was read already.
  private func isUnchanged(_ part: Range<Int>) -> Bool {
    guard let base else { return false }
    let grains = part.lowerBound / geometry.grain...(part.upperBound - 1) / geometry.grain
    return leaves[grains] == base.leaves[grains]
  }

  /// Narrows a step of zeroes to those that the target's base doesn't have.
  package func narrowZeroes(to ranges: [ByteRange]) { zeroRanges = ranges }

  /// The packed bytes of ``compressed``.
  package var compressedBytes: RawSpan {
    @_lifetime(borrow self)
    get {
      guard let output else { return _overrideLifetime(RawSpan(), borrowing: self) }
      return _overrideLifetime(RawSpan(_unsafeStart: output, byteCount: compressedByteCount), borrowing: self)
    }
  }

  /// A run of blocks that are all zero, or of which none is.
  package struct BlockRun: Hashable, Sendable {
    /// Positions in ``Chunk/bytes``.
    package var range: Range<Int>
    package var isZero: Bool
  }

  /// What was read, isn't compressed and is to be stored, cut into zeroes and what isn't.
  /// - Parameter block: in bytes; it divides a grain, and a cluster where some are compressed.
  package func plainRuns(of block: Int) -> [BlockRun] {
    var (runs, start, clusters, changes) = ([BlockRun](), 0, compressed[...], base?.changes?[...])
    while start < count {
      if let cluster = clusters.first, cluster.guestOffset == range.offset + UInt64(start) {
        clusters.removeFirst()
        start += geometry.cluster
        continue
      }
      let unit = start..<min(start / geometry.unit * geometry.unit + geometry.unit, count)
      guard !isUnchanged(unit) else {
        start = unit.upperBound
        continue
      }
      // A grain of zeroes is one whatever the blocks; it holds no compressed cluster, but may lie within one.
      let isZeroGrain = start % geometry.grain == 0 && leaves[start / geometry.grain] == .zero
      let end = min(start + (isZeroGrain ? geometry.grain : block), count)
      while let first = changes?.first, first.upperBound <= start { changes?.removeFirst() }
      if let changes, changes.first.map({ $0.lowerBound >= end }) ?? true {
        start = end
        continue
      }
      let isZero = isZeroGrain || isZero(start..<end)
      if let last = runs.last, last.isZero == isZero, last.range.upperBound == start {
        runs[runs.count - 1].range = last.range.lowerBound..<end
      } else {
        runs.append(BlockRun(range: start..<end, isZero: isZero))
      }
      start = end
    }
    return runs
  }

  /// Bytes of grains that differ from the base's, as far as these may have changed; of those that aren't zero where there
  /// is no base.
  package var changedByteCount: UInt64 {
    if step.action == .zero { return zeroRanges.reduce(0) { $0 + $1.length } }
    return leaves.indices.reduce(0) { sum, index in
      guard leaves[index] != base?.leaves[index] ?? .zero else { return sum }
      let start = index * geometry.grain
      return sum + UInt64(changedByteCount(in: start..<min(start + geometry.grain, count)))
    }
  }
}
