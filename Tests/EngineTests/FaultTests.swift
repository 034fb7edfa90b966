import Engine
import EventLoops
import Foundation
import Glibc
import Model
import ModelTesting
import Testing

/// The storage of repository and target fails at each call in turn: nothing that isn't whole ever claims to be.
struct FaultTests {
  static let size: UInt64 = 3 << 18
  /// More calls than any of these stories makes.
  static let callLimit = 400

  struct Case: CustomTestStringConvertible, Sendable {
    var code: Int32
    var isDone: Bool
    var testDescription: String { "\(code == ENOSPC ? "ENOSPC" : "EIO")\(isDone ? ", answer lost" : "")" }
  }

  static let cases = [
    Case(code: EIO, isDone: false), Case(code: ENOSPC, isDone: false), Case(code: EIO, isDone: true),
  ]

  @Test(arguments: cases)
  func backupThatMeetsAFaultLeavesNothingBehind(_ fault: Case) async throws {
    try await withSource { test, source in
      let before = try SampleImage.bytes(source)
      var failures = 0
      for call in 1...Self.callLimit {
        let plan = FaultPlan(.fail(call: call, code: fault.code, isDone: fault.isDone))
        let faulty = try await test.again(plan)
        let order = faulty.order(faulty.record("vm", source, .raw))
        do {
          _ = try await faulty.backUp(order)
        } catch let error as DomainError {
          failures += 1
          #expect(plan.wasHit, "call \(call): \(error)")
          #expect([.ioError, .storageFull].contains(error.code), "call \(call): \(error)")
          if fault.code == ENOSPC { #expect(error.code == .storageFull, "call \(call): \(error)") }
          #expect(test.storedFiles == [], "call \(call): \(error)")
          #expect(try await test.engine.scan(test.repository).backups == [])
        }
        guard plan.wasHit else {
          #expect(call > 30 && failures > 20, "\(call) calls, \(failures) failures")
          break
        }
        if !test.storedFiles.isEmpty { try await test.checkComplete(order) }
        try test.emptyImages()
        #expect(call < Self.callLimit)
      }
      #expect(try SampleImage.bytes(source) == before)
      let made = try await test.backUp(test.record("vm", source, .raw))
      #expect(try await test.verify(made.place).findings == [])
    }
  }

  @Test(arguments: cases)
  func restoreThatMeetsAFaultPublishesNothing(_ fault: Case) async throws {
    try await withSource { test, source in
      let made = try await test.backUp(test.record("vm", source, .raw))
      var failures = 0
      for call in 1...Self.callLimit {
        let plan = FaultPlan(.fail(call: call, code: fault.code, isDone: fault.isDone))
        let faulty = try await test.again(plan)
        let format: DiskFormat = call % 2 == 0 ? .raw : .qcow2
        let target = test.images + "/back.\(format)"
        var isPublished = false
        do {
          try await faulty.restore(made.place, to: target, format)
          isPublished = true
        } catch let error as DomainError {
          failures += 1
          #expect([.ioError, .storageFull].contains(error.code), "call \(call): \(error)")
        }
        let expected = isPublished ? ["back.\(format)", "vm.raw"] : ["vm.raw"]
        #expect(TestEngine.files(beneath: test.images) == expected, "call \(call)")
        if isPublished {
          try Tool.judge("compare", "-f", "raw", "-F", format.rawValue, source, target)
          try FileManager.default.removeItem(atPath: target)
        }
        guard plan.wasHit else {
          #expect(call > 20 && failures > 15, "\(call) calls, \(failures) failures")
          break
        }
        #expect(call < Self.callLimit)
      }
    }
  }

  /// `isLossy`: power goes, and whatever wasn't made durable is taken back; else the process is killed.
  @Test(arguments: [false, true])
  func backupThatIsCutAnywhereIsCompleteOrNoBackup(_ isLossy: Bool) async throws {
    try await withSource { test, source in
      var completed = 0
      for change in 1...Self.callLimit {
        let plan = FaultPlan(.cut(change: change))
        let dying = try await test.again(plan)
        let order = dying.order(dying.record("vm", source, .raw))
        let isSuccess = (try? await dying.backUp(order)) != nil
        if isLossy { plan.losePending() }
        let fresh = try await test.again(FaultPlan())
        let found = try await fresh.engine.scan(test.repository).backups
        if isSuccess { #expect(found.map(\.id) == [order.backup], "change \(change)") }
        if !found.isEmpty {
          completed += 1
          try await fresh.checkComplete(order)
        }
        _ = try await fresh.engine.recover(test.repository, liveJobs: [])
        #expect(
          TestEngine.files(beneath: test.repositoryPath).allSatisfy { !$0.hasSuffix(".part") }, "change \(change)")
        #expect(
          test.storedFiles.filter { !$0.hasSuffix("/image.json") }.count == (found.isEmpty ? 0 : 3), "change \(change)")
        let next = try await fresh.backUp(fresh.record("vm", source, .raw))
        #expect(try await fresh.verify(next.place, .metadata).findings == [])
        try test.emptyImages()
        guard plan.wasHit else { break }
        #expect(change < Self.callLimit)
      }
      #expect(completed > 0)
    }
  }

  @Test(arguments: [false, true])
  func deletionThatIsCutAnywhereIsFinishedLater(_ isLossy: Bool) async throws {
    try await withSource { test, source in
      for change in 1...Self.callLimit {
        let made = try await test.backUp(test.record("vm", source, .raw))
        let plan = FaultPlan(.cut(change: change))
        let dying = try await test.again(plan)
        let isSuccess = (try? await dying.engine.delete(made.place, control: RecordingJobControl())) != nil
        if isLossy { plan.losePending() }
        let fresh = try await test.again(FaultPlan())
        let found = try await fresh.engine.scan(test.repository).backups
        if isSuccess { #expect(found == []) }
        if found.isEmpty {
          let report = try await fresh.engine.recover(test.repository, liveJobs: [])
          #expect(report.quarantined == [], "change \(change)")
          #expect(
            test.storedFiles.allSatisfy { $0.hasSuffix(".deleted") || $0.hasSuffix("image.json") }, "change \(change)")
        } else {
          #expect(try await fresh.verify(made.place).findings == [], "change \(change)")
          try await fresh.engine.delete(made.place, control: RecordingJobControl())
          #expect(try await fresh.engine.scan(test.repository).backups == [])
        }
        guard plan.wasHit else { break }
        #expect(change < Self.callLimit)
      }
    }
  }

  private func withSource(_ body: (TestEngine, String) async throws -> Void) async throws {
    try await withEngine { test in
      let source = test.images + "/vm.raw"
      try SampleImage.raw(at: source, byteCount: Self.size, seed: 11)
      try await body(test, source)
    }
  }
}

extension TestEngine {
  /// The same server over the same folders, started anew on storage that fails as planned.
  func again(_ plan: FaultPlan) async throws -> TestEngine {
    try await TestEngine(root: root, writer: writer, repository: repository) { FaultyFiles($0, plan: plan) }
  }

  /// What claims to be complete is.
  func checkComplete(_ order: BackupOrder) async throws {
    let found = try await engine.scan(repository).backups
    #expect(found.map(\.id) == [order.backup])
    #expect(try await verify(place(order)).findings == [])
  }

  func emptyImages() throws {
    let folder = repositoryPath + "/images"
    for name in try FileManager.default.contentsOfDirectory(atPath: folder) {
      try FileManager.default.removeItem(atPath: "\(folder)/\(name)")
    }
  }
}
