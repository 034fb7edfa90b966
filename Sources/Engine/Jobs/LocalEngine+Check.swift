import BlockCore
import EventLoops
import Model
import Qcow2

extension LocalEngine {
  package func check(_ order: CheckOrder, control: any JobControl) async throws -> Model.CheckReport {
    try attachedImages.checkDetached(order.image)
    return try await onLoop(for: control.job) { [self] loop in
      do {
        let image = try await opener(on: loop).open(
          order.image, isReadOnly: !order.repairsLeaks, for: ImageUse("the check job \(control.job)"))
        return try await closing([image.device]) {
          guard let qcow2 = image.device as? Qcow2Image else { return Model.CheckReport.nothingToCheck }
          return try await telling(about: image.name) {
            let report = try await check(qcow2, image, order, control)
            // What was repaired is durable only then.
            if order.repairsLeaks { try await qcow2.close() }
            return report
          }
        }
      } catch let error as DomainError where error.code == .imageCorrupt {
        // So damaged that it can't even be opened, or walked through.
        return Model.CheckReport(
          findings: [error.detail], errorCount: 1, leakCount: 0, repairedLeakCount: 0, checkedBytes: 0)
      }
    }
  }

  nonisolated(nonsending)
    private func check(
      _ qcow2: Qcow2Image, _ image: OpenImage, _ order: CheckOrder, _ control: any JobControl
    ) async throws -> Model.CheckReport
  {
    let byteCount = image.files.first?.status.byteCount ?? qcow2.fileByteCount
    var cancellation: (any Error)?
    let found: Qcow2.CheckReport
    do throws(BlockError) {
      found = try await qcow2.check { (progress) async throws(BlockError) in
        control.report(done: UInt64(Double(byteCount) * progress), total: byteCount)
        do {
          try await control.checkpoint()
        } catch {
          cancellation = error
          throw BlockError(.cancelled, .read)
        }
      }
    } catch {
      throw cancellation ?? error
    }
    control.report(done: byteCount, total: byteCount)
    guard order.repairsLeaks, found.leakCount > 0 else {
      return Model.CheckReport(found, of: image.name, checkedBytes: byteCount)
    }
    let left = try await qcow2.repairLeaks()
    if left.repairedCount == 0 {
      control.log(.warning, "\(image.name): nothing was repaired, as its errors hide what is in use")
    }
    return Model.CheckReport(left, of: image.name, checkedBytes: byteCount)
  }
}

extension Model.CheckReport {
  fileprivate static let nothingToCheck = Model.CheckReport(
    findings: [], errorCount: 0, leakCount: 0, repairedLeakCount: 0, checkedBytes: 0)

  fileprivate init(_ report: Qcow2.CheckReport, of name: String, checkedBytes: UInt64) {
    let errors = report.findings.filter { $0.kind == .corruption }
    let leaks = report.findings.filter { $0.kind == .leak }
    self.init(
      findings: errors.map { "\(name): error: \($0.place)" } + leaks.map { "\(name): leak: \($0.place)" },
      errorCount: report.corruptionCount, leakCount: report.leakCount, repairedLeakCount: report.repairedCount,
      checkedBytes: checkedBytes)
  }
}
