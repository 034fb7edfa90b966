import Foundation
import Model

/// A check job. Errors in the image fail it; leaks alone don't, for they do no harm.
struct CheckWork: JobWork {
  let image: ImageID
  let repairsLeaks: Bool
  let isPausable = true

  var images: [ImageID] { [image] }

  func claims(in catalog: any CatalogReading) throws -> [JobClaim] {
    [try .image(image, isAlone: repairsLeaks, in: catalog)]
  }

  func run(_ context: JobContext) async -> JobEnd {
    do {
      let row = try context.transactions.read { catalog in
        let row = try catalog.find(image)
        try catalog.requireCheckable(row, repairsLeaks: repairsLeaks)
        return row
      }
      context.log(.info, "checking image '\(row.name)'" + (repairsLeaks ? ", and giving back what it has lost" : ""))
      let order = CheckOrder(image: row.location, repairsLeaks: repairsLeaks)
      let report = try await context.engine.check(order, control: context.live)
      for finding in report.findings { context.log(report.errorCount > 0 ? .error : .warning, finding) }
      return end(report, row, context.limits)
    } catch {
      return JobEnd(error, of: context.live)
    }
  }

  private func end(_ report: CheckReport, _ row: Image, _ limits: ServiceLimits) -> JobEnd {
    let result = JobResult.checked(
      JobResult.Checked(
        image: row.id, imageName: row.name, isSound: report.errorCount == 0, errors: report.errorCount,
        leaks: report.leakCount, repairedLeaks: report.repairedLeakCount,
        findings: Array(report.findings.prefix(limits.findingsPerResult)),
        truncated: report.truncated || report.findings.count > limits.findingsPerResult,
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
