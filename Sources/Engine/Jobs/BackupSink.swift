import BlockCore
import Failures
import Model
import Qcow2
import Repositories

/// Where a backup's chunks go: leaves into the hash tree, data into the repository's new qcow2 image.
///
/// Grains and clusters are the same size. What is zero is left unallocated, which reads as zero: a full has nothing
/// below it.
final class BackupSink: CopySink {
  private let source: String
  private let hashes: HashTreeWriter
  private let hashesName: String
  private let target: Qcow2Image
  private let targetName: String
  /// Bytes of grains that weren't zero.
  private(set) var dataByteCount: UInt64 = 0

  init(source: String, hashes: HashTreeWriter, hashesName: String, target: Qcow2Image, targetName: String) {
    self.source = source
    self.hashes = hashes
    self.hashesName = hashesName
    self.target = target
    self.targetName = targetName
  }

  nonisolated(nonsending)
    func admit(_ chunk: Chunk) async throws
  {
    if let damage = chunk.damages.first {
      throw DomainError(BlockError(.corrupt(damage.text), .read, damage.range), of: source)
    }
    do throws(BlockError) {
      try await hashes.putZeroes(chunk.plan.zeroes.leaves)
      try await hashes.put(chunk.leaves, at: chunk.data.leaves.lowerBound)
    } catch {
      throw DomainError(error, of: hashesName)
    }
  }

  nonisolated(nonsending)
    func store(_ chunk: Chunk) async throws
  {
    do throws(BlockError) {
      if !chunk.compressed.isEmpty {
        try await target.writeCompressed(chunk.compressed, from: chunk.compressedBytes)
      }
      for run in chunk.plainRuns {
        try await target.write(chunk.bytes.extracting(run), at: chunk.data.offset + UInt64(run.lowerBound), options: [])
      }
    } catch {
      throw DomainError(error, of: targetName)
    }
    dataByteCount += chunk.dataByteCount
  }
}

extension ByteRange {
  /// Grains that the range touches; it begins at one.
  var grainCount: UInt64 {
    let grain = UInt64(HashTree.grainByteCount)
    return length / grain + (length % grain == 0 ? 0 : 1)
  }

  /// The leaves of the range; it begins at a grain.
  var leaves: Range<UInt64> {
    let first = offset / UInt64(HashTree.grainByteCount)
    return first..<first + grainCount
  }
}
