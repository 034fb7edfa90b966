import BlockCore
import Failures
import Model
import Repositories

/// Where a backup's chunks go: leaves into the hash tree, data into the repository's new image.
package final class BackupSink: CopySink {
  private let source: String
  private let hashes: HashTreeWriter
  private let hashesName: String
  private let target: TargetWriter
  /// Bytes of grains that weren't zero.
  package private(set) var dataByteCount: UInt64 = 0

  package init(source: String, hashes: HashTreeWriter, hashesName: String, target: TargetWriter) {
    self.source = source
    self.hashes = hashes
    self.hashesName = hashesName
    self.target = target
  }

  nonisolated(nonsending)
    package func admit(_ chunk: Chunk) async throws
  {
    if let damage = chunk.damages.first {
      throw DomainError(BlockError(.corrupt(damage.text), .read, damage.range), of: source)
    }
    do throws(BlockError) {
      switch chunk.step.action {
      case .copy: try await hashes.put(chunk.leaves, at: chunk.leafRange.lowerBound)
      case .zero: try await hashes.putZeroes(chunk.leafRange)
      case .skip: break
      }
    } catch {
      throw DomainError(error, of: hashesName)
    }
  }

  nonisolated(nonsending)
    package func store(_ chunk: Chunk) async throws
  {
    try await target.store(chunk)
    dataByteCount += chunk.dataByteCount
  }
}
