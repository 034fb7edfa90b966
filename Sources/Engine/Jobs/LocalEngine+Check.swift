import BlockCore
import EventLoops
import Failures
import Model
import Qcow2

extension LocalEngine {
  package func check(_ order: CheckOrder, control: any JobControl) async throws -> CheckReport {
    try await onLoop(for: control.job, in: .folder(of: order.image.source.place)) { [self] loop in
      do {
        let found = try await check(order.image, on: loop, control)
        // Errors too: opening an image to be written puts right what a writer left that ended early.
        guard order.repairsLeaks, found.leakCount + found.errorCount > 0 else { return found }
        return try await repairLeaks(order.image, found, on: loop, control)
      } catch let error as DomainError where error.code == .imageCorrupt {
        // So damaged that it can't even be opened, or walked through.
        return CheckReport(
          findings: [error.detail], errorCount: 1, leakCount: 0, repairedLeakCount: 0, checkedBytes: 0)
      }
    }
  }

  private static func use(_ control: any JobControl, _ need: ImageNeed) -> ImageUse {
    ImageUse(.job("check", control.job), needs: need)
  }

  /// Looks at the image without changing anything, so that an image which may not be written is checked as well.
  nonisolated(nonsending)
    private func check(
      _ location: ImageLocation, on loop: EventLoop, _ control: any JobControl
    ) async throws -> CheckReport
  {
    let image = try await opener(on: loop).open(location, for: Self.use(control, .rest))
    return try await closing([image.device]) {
      guard let qcow2 = image.format.qcow2 else { return CheckReport.nothingToCheck }
      let byteCount = image.files.first?.status.byteCount ?? qcow2.fileByteCount
      return try await telling(about: image.name) {
        let found = try await Self.walking(control, telling: byteCount) { (progress) async throws(BlockError) in
          try await qcow2.check(progress)
        }
        control.report(done: byteCount, total: byteCount)
        return CheckReport(found, of: image.name, checkedBytes: byteCount)
      }
    }
  }

  /// Walks through an image's tables; the job can be ended meanwhile, if it is one.
  /// - Parameter byteCount: what the job shows as done in the end; nil if it shows something else.
  nonisolated(nonsending)
    static func walking(
      _ control: (any JobControl)?, telling byteCount: UInt64?,
      _ walk: (@escaping CheckProgress) async throws(BlockError) -> Qcow2CheckReport
    ) async throws -> Qcow2CheckReport
  {
    var cancellation: (any Error)?
    do throws(BlockError) {
      return try await walk { (part) async throws(BlockError) in
        if let byteCount { control?.report(done: UInt64(Double(byteCount) * part), total: byteCount) }
        do {
          try await control?.checkpoint()
        } catch {
          cancellation = error
          throw BlockError(.cancelled, .read)
        }
      }
    } catch {
      throw cancellation ?? error
    }
  }

  /// - Returns: what is wrong afterwards: what was found before, where the image's errors hide what is in use.
  nonisolated(nonsending)
    private func repairLeaks(
      _ location: ImageLocation, _ found: CheckReport, on loop: EventLoop, _ control: any JobControl
    ) async throws -> CheckReport
  {
    func leaveUnrepaired() {
      guard found.leakCount > 0 else { return }
      control.log(.warning, "\(location.source.place): nothing was repaired, as its errors hide what is in use")
    }
    let graph: ImageGraph
    do {
      graph = try await opener(on: loop).openToWrite(
        location, tracking: .unchanged(because: "a repair changes nothing that the guest sees"),
        for: Self.use(control, .alone))
    } catch let error as DomainError
      where found.errorCount > 0 && (error.code == .imageCorrupt || error.code == .formatUnsupported)
    {
      leaveUnrepaired()
      return found
    }
    return try await closing([graph.slot]) {
      guard let qcow2 = graph.image.format.qcow2 else { return found }
      return try await telling(about: graph.name) {
        if let repair = graph.image.repair { control.log(.warning, repair) }
        let left = try await Self.walking(control, telling: nil) { (progress) async throws(BlockError) in
          try await qcow2.repairLeaks(progress)
        }
        if left.repairedCount == 0 { leaveUnrepaired() }
        // What was repaired is durable only then.
        try await qcow2.close()
        return CheckReport(left, of: graph.name, checkedBytes: found.checkedBytes)
      }
    }
  }
}

extension CheckReport {
  fileprivate static let nothingToCheck = CheckReport(
    findings: [], errorCount: 0, leakCount: 0, repairedLeakCount: 0, checkedBytes: 0)

  fileprivate init(_ report: Qcow2CheckReport, of name: String, checkedBytes: UInt64) {
    let errors = report.findings.filter { $0.kind == .corruption }
    let leaks = report.findings.filter { $0.kind == .leak }
    self.init(
      findings: errors.map { "\(name): error: \($0.place)" } + leaks.map { "\(name): leak: \($0.place)" },
      truncated: report.isTruncated, errorCount: report.corruptionCount, leakCount: report.leakCount,
      repairedLeakCount: report.repairedCount, checkedBytes: checkedBytes)
  }
}
