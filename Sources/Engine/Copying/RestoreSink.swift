import BlockCore
import Model

/// Writes what is proven to be what was backed up; the first difference ends it.
final class RestoreSink: CopySink {
  private let comparison: HashComparison
  private let target: TargetWriter
  /// What ended it, if that was a difference.
  private(set) var difference: ByteRange?

  init(_ comparison: HashComparison, target: TargetWriter) {
    self.comparison = comparison
    self.target = target
  }

  nonisolated(nonsending)
    func admit(_ chunk: Chunk) async throws
  {
    if let difference = try await comparison.differences(in: chunk).first {
      self.difference = difference.range
      throw DomainError(
        .backupCorrupt, comparison.describe(difference), remedy: "verify the backup, and restore another one")
    }
  }

  nonisolated(nonsending)
    func store(_ chunk: Chunk) async throws
  { try await target.store(chunk) }
}
