import Failures
import Model

/// What is wrong with stored backups, as far as it was found.
struct Findings {
  /// The first ``VerifyReport/maximumFindingCount`` of them.
  private(set) var texts: [String] = []
  private(set) var count = 0

  mutating func add(_ text: String) {
    count += 1
    if texts.count < VerifyReport.maximumFindingCount { texts.append(text) }
  }

  mutating func add(_ sink: VerifySink) {
    for text in sink.findings { add(text) }
    count += sink.findingCount - sink.findings.count
  }

  /// Runs `body`; a refusal that is about the backup itself becomes a finding, and nil comes back.
  /// - Throws: everything else: it says nothing about the backup.
  nonisolated(nonsending)
    mutating func collect<Result>(_ body: () async throws -> Result) async throws -> Result?
  {
    do {
      return try await body()
    } catch let error as DomainError where error.code.isDamageOfABackup {
      add(error.detail)
      return nil
    }
  }
}
