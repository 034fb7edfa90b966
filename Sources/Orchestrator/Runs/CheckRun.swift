import Foundation
import Model

/// A check job. Errors in the image fail it; leaks alone don't, for they harm nobody.
struct CheckRun: Sendable {
  private let runner: JobRunner
  private let image: ImageID
  private let repairsLeaks: Bool
  private let live: LiveJob

  init(_ runner: JobRunner, _ image: ImageID, repairsLeaks: Bool, _ live: LiveJob) {
    self.runner = runner
    self.image = image
    self.repairsLeaks = repairsLeaks
    self.live = live
  }

  func run() async -> JobEnd {
    do {
      let row = try runner.ledger.read { catalog in
        let row = try catalog.find(image)
        try catalog.requireCheckable(row, repairsLeaks: repairsLeaks)
        return row
      }
      live.log(.info, "checking image '\(row.name)'" + (repairsLeaks ? ", and giving back what it has lost" : ""))
      let order = CheckOrder(image: row.location, repairsLeaks: repairsLeaks)
      let report = try await runner.engine.check(order, control: live)
      for finding in report.findings { live.log(report.errorCount > 0 ? .error : .warning, finding) }
      return end(report, row)
    } catch {
      return JobEnd(error, of: live)
    }
  }

  private func end(_ report: CheckReport, _ row: Image) -> JobEnd {
    let result = JobResult.checked(
      JobResult.Checked(
        image: row.id, imageName: row.name, isSound: report.errorCount == 0, errors: report.errorCount,
        leaks: report.leakCount, repairedLeaks: report.repairedLeakCount,
        findings: Array(report.findings.prefix(runner.limits.findingsPerResult)),
        truncated: report.truncated || report.findings.count > runner.limits.findingsPerResult,
        checkedBytes: report.checkedBytes))
    guard report.errorCount > 0 else { return JobEnd(.succeeded, result: result) }
    let first = report.findings.first ?? "its metadata contradicts itself"
    let rest = report.errorCount > 1 ? " (and \(report.errorCount - 1) more)" : ""
    return JobEnd(
      .failed(
        ProblemDetails(
          DomainError(
            .imageCorrupt, "image '\(row.name)' is damaged: \(first)\(rest)",
            remedy: "let no guest use it; restore a backup, or copy out what can be read"))),
      result: result)
  }
}
