import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

/// What a start brings back of what was attached and exported.
@Suite struct ExportStartTests {
  /// A catalog with "vm1" attached by request, "vm2" by its export, and three exports: of both, and of a backup.
  private func served() async throws -> (InMemoryCatalog, [Image]) {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    try await bench.image("vm2")
    try await bench.attach("vm1", cache: .writeback)
    try await bench.export("a", isReadOnly: false)
    try await bench.export("b", of: "vm2", isReadOnly: false)
    try await bench.export("c", of: backup)
    try bench.expectInLine()
    await bench.service.stop(grace: .seconds(1))
    return (bench.stored, try bench.service.images(PageRequest()).items)
  }

  private func export(_ bench: ServiceBench, _ name: ResourceName) throws -> Export {
    try bench.service.export(.name(name)).export
  }

  @Test func everythingIsAttachedAndServedAgain() async throws {
    let (stored, images) = try await served()
    let events = try stored.read { try $0.events(after: 0, job: nil, limit: .max) }.count
    let bench = try await ServiceBench(catalog: stored)
    try bench.expectInLine()
    #expect(bench.engine.servedExports.count == 3)
    #expect(Set(bench.engine.attachedImages.keys) == Set(images.map(\.id)))
    #expect(bench.engine.attachedImages.values.contains { $0.cache == .writeback })
    // Nothing changed, so nothing is told.
    #expect(try bench.service.images(PageRequest()).items == images)
    #expect(try bench.events().count == events)
    // Nobody looks at what is attached by opening it a second time.
    #expect(!bench.engine.orders.contains { if case .inspect = $0 { true } else { false } })
    _ = try await bench.service.deleteExport(.name("b"), .safe).done()
    #expect(try bench.service.image(.name("vm2")).state == .detached)
    try bench.expectInLine()
  }

  @Test func imageThatIsGoneIsUnavailableWithItsExportsUntilItIsAttached() async throws {
    let (stored, _) = try await served()
    let engine = ScriptedEngine()
    engine.script { script in
      script.attach = { order in
        if order.location.source.place == "/images/vm1" { throw DomainError(.sourceNotFound, "no such file") }
        return AttachReceipt(virtualSize: 1 << 20, cache: .direct)
      }
    }
    let bench = try await ServiceBench(catalog: stored, engine: engine)
    let image = try bench.service.image(.name("vm1"))
    #expect(image.state == .unavailable && image.attachment?.cause == .request)
    let export = try export(bench, "a")
    #expect(export.state == .unavailable)
    #expect(export.failure == "its image couldn't be attached: no such file")
    #expect(try self.export(bench, "b").state == .active)
    try bench.expectInLine()
    await expectRefusal(.imageInUse) { try await bench.backUp("vm1") }
    await expectRefusal(.imageNotAttached) { try await bench.export("d") }
    await expectRefusal(.imageInUse) { try await bench.service.detachImage(.name("vm1")) }
    _ = try await bench.service.inspectImage(.name("vm1"))
    #expect(try bench.service.image(.name("vm1")) == image)
    engine.script { $0.attach = ScriptedEngine.Script().attach }
    try await bench.attach("vm1")
    #expect(try self.export(bench, "a").state == .active)
    #expect(try bench.eventKinds().contains(.exportChanged))
    try bench.expectInLine()
  }

  @Test func unavailableImageIsDetachedWithItsLastExport() async throws {
    let (stored, _) = try await served()
    let engine = ScriptedEngine()
    engine.script { $0.attach = { _ in throw DomainError(.sourceNotFound, "no such file") } }
    let bench = try await ServiceBench(catalog: stored, engine: engine)
    for name in ["a", "b"] as [ResourceName] { _ = try await bench.service.deleteExport(.name(name), .safe).done() }
    let byExport = try bench.service.image(.name("vm2"))
    #expect(byExport.state == .unavailable && byExport.attachment == nil)
    _ = try await bench.end(of: bench.service.detachImage(.name("vm1")).done())
    #expect(try bench.service.image(.name("vm1")).attachment == nil)
    _ = try await bench.service.inspectImage(.name("vm1"))
    #expect(try bench.service.image(.name("vm1")).state == .detached)
    try bench.expectInLine()
  }

  /// An engine whose images are locked until the gate is open.
  private func lockedEngine(_ gate: Gate) -> ScriptedEngine {
    let engine = ScriptedEngine()
    engine.script { script in
      script.work = { order, _ in
        guard case .attach = order else { return }
        guard gate.isOpen else { throw DomainError(.imageLocked, "a dying process has it") }
      }
    }
    return engine
  }

  @Test func lockedImageIsAttachedWhenItIsFree() async throws {
    let (stored, _) = try await served()
    let gate = Gate()
    let bench = try await ServiceBench(catalog: stored, engine: lockedEngine(gate)) {
      $0.lockInterval = .milliseconds(5)
    }
    #expect(try bench.service.image(.name("vm1")).state == .unavailable)
    #expect(try export(bench, "a").state == .unavailable && export(bench, "c").state == .active)
    try bench.expectInLine()
    gate.open()
    try await eventually("the images are attached, and exported") { try self.export(bench, "b").state == .active }
    try await eventually("the images are attached, and exported") { try self.export(bench, "a").state == .active }
    #expect(try bench.service.image(.name("vm1")).attachment == Attachment(cache: .writeback, cause: .request))
    try bench.expectInLine()
  }

  @Test func timeoutWithLocksEnds() async throws {
    let (stored, _) = try await served()
    let gate = Gate()
    let bench = try await ServiceBench(catalog: stored, engine: lockedEngine(gate)) {
      $0.lockInterval = .milliseconds(2)
      $0.lockTimeout = .milliseconds(20)
    }
    func attempts() -> Int { bench.engine.orders.filter { if case .attach = $0 { true } else { false } }.count }
    var seen = -1
    try await eventually("nobody tries any more") {
      defer { seen = attempts() }
      try await Task.sleep(for: .milliseconds(60))
      return attempts() == seen
    }
    #expect(try bench.service.image(.name("vm1")).state == .unavailable)
    gate.open()
    try await bench.attach("vm1")
    try bench.expectInLine()
  }

  @Test func imageThatIsDetachedMeanwhileIsNotAttachedAnyMore() async throws {
    let (stored, _) = try await served()
    let gate = Gate()
    let bench = try await ServiceBench(catalog: stored, engine: lockedEngine(gate)) {
      $0.lockInterval = .milliseconds(20)
    }
    _ = try await bench.service.deleteExport(.name("a"), .safe).done()
    _ = try await bench.end(of: bench.service.detachImage(.name("vm1")).done())
    gate.open()
    try await eventually("the other image is attached") { try bench.service.image(.name("vm2")).state == .attached }
    try await Task.sleep(for: .milliseconds(50))
    #expect(try bench.service.image(.name("vm1")).attachment == nil)
    try bench.expectInLine()
  }

  @Test func stopEndsTheWaitForLocks() async throws {
    let (stored, images) = try await served()
    let gate = Gate()
    let bench = try await ServiceBench(catalog: stored, engine: lockedEngine(gate)) {
      $0.lockInterval = .milliseconds(2)
    }
    await bench.service.stop(grace: ServiceBench.timeout)
    gate.open()
    let orders = bench.engine.orders.count
    try await Task.sleep(for: .milliseconds(30))
    #expect(bench.engine.orders.count == orders)
    await expectRefusal(.stopping) { _ = try await bench.service.deleteExport(.name("a"), .safe) }
    // The next start finds what is to be attached.
    let next = try await ServiceBench(catalog: stored)
    #expect(try next.service.images(PageRequest()).items.map(\.attachment) == images.map(\.attachment))
    try next.expectInLine()
    #expect(next.engine.servedExports.count == 3)
  }

  @Test func stopWaitsForTheExportThatIsMade() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    async let export = bench.export("disk0", isReadOnly: false)
    try await gate.reached()
    async let stop: Void = bench.service.stop(grace: ServiceBench.timeout)
    try await Task.sleep(for: .milliseconds(20))
    gate.open()
    await stop
    #expect(try await export.state == .active)
    try bench.expectInLine()
    #expect(bench.engine.servedExports.count == 1)
  }

  @Test func imageAtRestWhoseExportIsUnavailableMayBeAttached() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    try await bench.export("disk0")
    let engine = ScriptedEngine()
    engine.script { script in
      script.export = { _ in throw DomainError(.sourceNotFound, "no such file") }
    }
    let next = try await ServiceBench(catalog: bench.stored, engine: engine)
    #expect(try export(next, "disk0").failure == "no such file")
    engine.script { $0.export = { _ in } }
    let image = try await next.attach("vm1")
    #expect(try export(next, "disk0").state == .active)
    #expect(engine.servedExports.values.map(\.source) == [.attachedImage(image.id)])
    try next.expectInLine()
  }

  @Test func whatIsExportedMayBeGone() async throws {
    let (stored, _) = try await served()
    try await stored.write { catalog in
      let export = try #require(try catalog.export(named: "c"))
      guard case .backup(let id) = export.source else { throw ExpectationFailure("no backup") }
      try catalog.delete(id)
    }
    let bench = try await ServiceBench(catalog: stored)
    let view = try bench.service.export(.name("c"))
    #expect(view.export.state == .unavailable && view.export.failure?.hasPrefix("there is no backup") == true)
    #expect(view.imageID == nil && view.imageName == nil && view.activity == nil)
    try bench.expectInLine()
    _ = try await bench.service.deleteExport(.name("c"), .safe).done()
  }
}
