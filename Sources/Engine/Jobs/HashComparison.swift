import BlockCore
import Buffers
import EventLoops
import Failures
import Model
import Repositories

/// Compares what is read of a backup with its hash tree, in order.
final class HashComparison {
  /// A stretch of the guest's bytes that isn't what was backed up.
  struct Difference: Hashable {
    var range: ByteRange
    var text: String
  }

  private let reader: HashTreeReader
  private let dataName: String
  private let hashesName: String

  init(_ reader: HashTreeReader, dataName: String, hashesName: String) {
    self.reader = reader
    self.dataName = dataName
    self.hashesName = hashesName
  }

  /// What of the chunk differs, neighbours joined; empty if all of it is as it was.
  /// - Throws: where the hashes can't be read; `backupCorrupt` where they are damaged themselves.
  nonisolated(nonsending)
    func differences(in chunk: Chunk) async throws -> [Difference]
  {
    do throws(HashTreeReader.Failure) {
      var found: [Difference] = []
      let zeroes = chunk.plan.zeroes.leaves
      var next = zeroes.lowerBound
      while let leaf = try await reader.firstDataLeaf(in: next..<zeroes.upperBound) {
        add(leaf, "reads as zeroes, which isn't what was backed up", to: &found)
        next = leaf + 1
      }
      let data = chunk.data.leaves
      let expected = try await reader.leaves(data)
      let unreadable = Dictionary(chunk.damages.map { ($0.range.leaves.lowerBound, $0.text) }) { first, _ in first }
      for (index, leaf) in data.enumerated() {
        if let text = unreadable[leaf] {
          add(leaf, text, to: &found)
        } else if chunk.leaves[index] != expected[index] {
          add(leaf, "doesn't match its hash", to: &found)
        }
      }
      return found
    } catch {
      throw DomainError(error, of: hashesName)
    }
  }

  /// A sentence on a difference.
  func describe(_ difference: Difference) -> String {
    "\(dataName): the guest's bytes \(difference.range): \(difference.text)"
  }

  private func add(_ leaf: UInt64, _ text: String, to found: inout [Difference]) {
    let range = ByteRange(reader.tree.grain(leaf))
    if let last = found.last, last.range.end == range.offset, last.text == text {
      found[found.count - 1].range.length += range.length
    } else {
      found.append(Difference(range: range, text: text))
    }
  }
}

extension StoredBackup {
  func comparison(_ hashes: HashTreeReader) -> HashComparison {
    HashComparison(hashes, dataName: dataName, hashesName: hashesName)
  }
}

/// Collects what verification finds; compares and stores nothing.
final class VerifySink: CopySink {
  private let comparison: HashComparison
  private(set) var findings: [String] = []
  private(set) var findingCount = 0

  init(_ comparison: HashComparison) { self.comparison = comparison }

  nonisolated(nonsending)
    func admit(_ chunk: Chunk) async throws
  {
    for difference in try await comparison.differences(in: chunk) {
      findingCount += 1
      if findings.count < VerifyReport.maximumFindingCount { findings.append(comparison.describe(difference)) }
    }
  }

  nonisolated(nonsending)
    func store(_ chunk: Chunk) async throws
  {}
}

/// Writes what is proven to be what was backed up; the first difference ends it.
final class RestoreSink: CopySink {
  private let comparison: HashComparison
  private let target: any BlockDevice
  private let targetName: String
  /// Whether the target reads as zeroes where nothing was written.
  private let targetIsZero: Bool
  private let blockByteCount: Int
  private let control: any JobControl
  /// Bytes that were written because they aren't zero.
  private(set) var writtenByteCount: UInt64 = 0

  /// Longest range of zeroes that the target is told of at once: it may have to write them all.
  private static let zeroesAtOnce: UInt64 = 128 << 20

  init(
    _ comparison: HashComparison, target: any BlockDevice, targetName: String, targetIsZero: Bool,
    control: any JobControl
  ) {
    self.control = control
    self.comparison = comparison
    self.target = target
    self.targetName = targetName
    self.targetIsZero = targetIsZero
    blockByteCount = Self.blockByteCount(of: target.limits)
  }

  nonisolated(nonsending)
    func admit(_ chunk: Chunk) async throws
  {
    if let difference = try await comparison.differences(in: chunk).first {
      throw DomainError(
        .backupCorrupt, comparison.describe(difference), remedy: "verify the backup, and restore another one")
    }
  }

  nonisolated(nonsending)
    func store(_ chunk: Chunk) async throws
  {
    try await zero(chunk.plan.zeroes)
    for run in chunk.blockRuns(of: blockByteCount) {
      let offset = chunk.data.offset + UInt64(run.range.lowerBound)
      if run.isZero {
        try await zero(ByteRange(offset: offset, length: UInt64(run.range.count)))
      } else {
        try await write(chunk.bytes.extracting(run.range), at: offset)
      }
    }
  }

  nonisolated(nonsending)
    private func write(_ bytes: RawSpan, at offset: UInt64) async throws
  {
    do throws(BlockError) {
      try await target.write(bytes, at: offset, options: [])
    } catch {
      throw DomainError(error, of: targetName)
    }
    writtenByteCount += UInt64(bytes.byteCount)
  }

  /// What the target can leave out by itself, at least a page: zeroes of that size stay holes. A grain where the target
  /// stores in larger units.
  private static func blockByteCount(of limits: BlockLimits) -> Int {
    let grain = HashTree.grainByteCount
    let block = max(pageByteCount, limits.requestAlignment, limits.preferredByteCount)
    return grain % block == 0 ? block : grain
  }

  nonisolated(nonsending)
    private func zero(_ range: ByteRange) async throws
  {
    guard !targetIsZero else { return }
    var offset = range.offset
    while offset < range.end {
      let length = min(range.end - offset, Self.zeroesAtOnce)
      do throws(BlockError) {
        try await target.writeZeroes(ByteRange(offset: offset, length: length), options: .mayUnmap)
      } catch {
        throw DomainError(error, of: targetName)
      }
      offset += length
      if offset < range.end { try await control.checkpoint() }
    }
  }
}
