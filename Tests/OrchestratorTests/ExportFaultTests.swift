import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

/// The catalog fails at call n, for every n: what is served stays what the catalog says, at once where it can be told,
/// as soon as it answers again where it can't.
@Suite struct ExportFaultTests {
  private static let calls = 1...4

  private func bench() async throws -> ServiceBench {
    let bench = try await ServiceBench {
      $0.commitAttempts = 2
      $0.storeInterval = .seconds(60)
      $0.lateInterval = .milliseconds(5)
    }
    try await bench.image("vm1")
    return bench
  }

  private func settle(_ bench: ServiceBench, _ comment: Comment) async throws {
    bench.catalog.writeFault = nil
    bench.catalog.readFault = nil
    try await eventually("it is brought in line") { try bench.isInLine() }
    try bench.expectInLine(comment)
  }

  @Test(arguments: FaultyCatalog.Effect.allCases, [true, false])
  func exportThatDoesNotCommitIsTakenBack(effect: FaultyCatalog.Effect, forGood: Bool) async throws {
    for isReadOnly in [true, false] {
      let bench = try await bench()
      bench.catalog.writeFault = FaultyCatalog.Fault(atCall: 1, effect: effect, fromThenOn: forGood)
      let export = try? await bench.export("disk0", isReadOnly: isReadOnly)
      // A lost answer is found out.
      #expect((export != nil) == (effect == .answerLost))
      try bench.expectInLine("at once")
      try await settle(bench, "later")
      #expect(try bench.service.exports(ExportQuery(), PageRequest()).items.count == (export == nil ? 0 : 1))
    }
  }

  @Test(arguments: FaultyCatalog.Effect.allCases, [true, false])
  func exportWhoseDeletionDoesNotCommitIsServedAgain(effect: FaultyCatalog.Effect, forGood: Bool) async throws {
    for isReadOnly in [true, false] {
      let bench = try await bench()
      try await bench.export("disk0", isReadOnly: isReadOnly)
      bench.catalog.writeFault = FaultyCatalog.Fault(atCall: 1, effect: effect, fromThenOn: forGood)
      let answer = try? await bench.service.deleteExport(.name("disk0"), .safe)
      #expect((answer != nil) == (effect == .answerLost))
      try bench.expectInLine("at once")
      try await settle(bench, "later")
    }
  }

  /// Neither the row can be written, nor can it be read what became of it.
  @Test(arguments: FaultyCatalog.Effect.allCases)
  func catalogThatSaysNothingIsCaughtUpWith(effect: FaultyCatalog.Effect) async throws {
    for call in 1...6 {
      for isReadOnly in [true, false] {
        let bench = try await bench()
        let silence = FaultyCatalog.Fault(atCall: 1, effect: effect, fromThenOn: true)
        bench.catalog.writeFault = silence
        bench.catalog.readFault = FaultyCatalog.Fault(atCall: call, fromThenOn: true)
        _ = try? await bench.export("disk0", isReadOnly: isReadOnly)
        try await settle(bench, "made, read \(call)")
        if (try? bench.service.export(.name("disk0"))) == nil {
          try await bench.export("disk0", isReadOnly: isReadOnly)
        }
        bench.catalog.writeFault = silence
        bench.catalog.readFault = FaultyCatalog.Fault(atCall: call, fromThenOn: true)
        _ = try? await bench.service.deleteExport(.name("disk0"), .safe)
        try await settle(bench, "deleted, read \(call)")
      }
    }
  }

  @Test(arguments: FaultyCatalog.Effect.allCases, [true, false])
  func attachAndDetachEndInLineWhateverFails(effect: FaultyCatalog.Effect, forGood: Bool) async throws {
    for call in Self.calls {
      let bench = try await bench()
      // Call 1 is the request's own.
      let fault = FaultyCatalog.Fault(atCall: call, effect: effect, fromThenOn: forGood)
      bench.catalog.writeFault = fault
      let attach = try? await bench.service.attachImage(.name("vm1")).done()
      try await eventually("the fault struck") { bench.catalog.wasHit }
      try await Task.sleep(for: .milliseconds(10))
      try await settle(bench, "attach, write \(call)")
      if let attach { _ = try await bench.end(of: attach) }
      if try bench.service.image(.name("vm1")).state != .attached { try await bench.attach("vm1") }
      let hits = bench.catalog.hits
      bench.catalog.writeFault = fault
      let detach = try? await bench.service.detachImage(.name("vm1")).done()
      try await eventually("the fault struck") { bench.catalog.hits > hits }
      try await Task.sleep(for: .milliseconds(10))
      try await settle(bench, "detach, write \(call)")
      if let detach { _ = try await bench.end(of: detach) }
      try bench.expectInLine()
    }
  }

  /// From some step of the job on, rows can neither be written nor read.
  @Test(arguments: FaultyCatalog.Effect.allCases)
  func attachAndDetachAreCaughtUpWithAfterSilence(effect: FaultyCatalog.Effect) async throws {
    for call in 1...10 {
      let bench = try await bench()
      let gate = Gate()
      bench.engine.script { $0.hold(at: gate) }
      let attach = try await bench.service.attachImage(.name("vm1")).done()
      try await gate.reached()
      try await silence(bench, effect, write: 1 + call % 2, read: 1 + call / 2) { gate.open() }
      try await settle(bench, "attach, \(call)")
      _ = try await bench.end(of: attach)
      if try bench.service.image(.name("vm1")).state != .attached { try await bench.attach("vm1") }
      // The request's own write, and the start of the job, come first.
      try await silence(bench, effect, write: 3, read: call) {
        _ = try? await bench.service.detachImage(.name("vm1"))
      }
      try await settle(bench, "detach, \(call)")
      for job in try bench.service.jobs(JobFilter(), PageRequest()).items { _ = try await bench.end(of: job) }
      try bench.expectInLine()
    }
  }

  /// Lets writes and reads fail from the given ones on.
  private func silence(
    _ bench: ServiceBench, _ effect: FaultyCatalog.Effect, write: Int, read: Int, _ body: () async throws -> Void
  ) async throws {
    let hits = bench.catalog.hits
    bench.catalog.writeFault = FaultyCatalog.Fault(atCall: write, effect: effect, fromThenOn: true)
    bench.catalog.readFault = FaultyCatalog.Fault(atCall: read, fromThenOn: true)
    try await body()
    try await eventually("the fault struck") { bench.catalog.hits > hits }
    try await Task.sleep(for: .milliseconds(15))
  }

  @Test func exportThatCouldNotBeTakenBackIsLater() async throws {
    let bench = try await bench()
    bench.engine.script { $0.withdraw = { _, _ in throw DomainError(.ioError, "no") } }
    bench.catalog.writeFault = FaultyCatalog.Fault(atCall: 1)
    await expectRefusal(.storageFull) { try await bench.export("disk0") }
    #expect(bench.engine.servedExports.count == 1)
    bench.engine.script { $0.withdraw = { _, _ in } }
    try await settle(bench, "when it can be ended")
    #expect(bench.engine.servedExports.isEmpty)
  }

  @Test func startWhoseFindingsAreNotTakenTellsThemLater() async throws {
    let first = try await bench()
    try await first.export("disk0", isReadOnly: false)
    let engine = ScriptedEngine()
    engine.script { $0.attach = { _ in throw DomainError(.sourceNotFound, "no such file") } }
    // The first two writes are about what the config declares.
    let bench = try await ServiceBench(
      catalog: first.stored, engine: engine, writeFault: FaultyCatalog.Fault(atCall: 3, fromThenOn: true)
    ) {
      $0.commitAttempts = 1
      $0.lateInterval = .milliseconds(5)
    }
    #expect(bench.catalog.wasHit)
    try await settle(bench, "when the catalog takes it")
    #expect(try bench.service.image(.name("vm1")).state == .unavailable)
    let export = try bench.service.export(.name("disk0")).export
    #expect(export.state == .unavailable && export.failure != nil)
  }

  @Test func exportThatCannotBeServedAgainSaysWhy() async throws {
    let bench = try await bench()
    try await bench.export("disk0")
    bench.engine.script { $0.export = { _ in throw DomainError(.addressUnavailable, "somebody took it") } }
    bench.catalog.writeFault = FaultyCatalog.Fault(atCall: 1)
    await expectRefusal(.storageFull) { try await bench.service.deleteExport(.name("disk0"), .safe) }
    let view = try bench.service.export(.name("disk0"))
    #expect(view.export.state == .unavailable && view.export.failure == "somebody took it")
    #expect(view.activity == nil)
    try bench.expectInLine()
    #expect(try bench.eventKinds().last == .exportChanged)
    bench.catalog.writeFault = nil
    _ = try await bench.service.deleteExport(.name("disk0"), .safe).done()
    try bench.expectInLine()
  }
}
