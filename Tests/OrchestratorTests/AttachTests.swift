import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@Suite struct AttachTests {
  @Test func attachedImageIsOpenAndSaysHow() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    bench.engine.script { $0.attach = { _ in AttachReceipt(virtualSize: 1 << 21, cache: .writeback) } }
    let job = try await bench.end(of: bench.service.attachImage(.name("vm1")).done())
    #expect(job.state == .succeeded && job.result?["cache"] == "writeback" && job.result?["imageName"] == "vm1")
    let image = try bench.service.image(.name("vm1"))
    #expect(image.state == .attached && image.virtualSize == 1 << 21)
    #expect(image.attachment == Attachment(cache: .writeback, cause: .request))
    #expect(job.links.image == image.id)
    let order = try #require(bench.engine.attachedImages[image.id])
    #expect(order.cache == nil && order.lockTimeout == 0 && order.location == image.location)
    let event = try #require(try bench.events().last { $0.kind == .imageChanged })
    #expect(event.payload["state"] == "attached" && event.job == job.id)
    try bench.expectInLine()
  }

  @Test func failureOfAnAttachedImageIsAnEvent() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    try await bench.attach("vm1", cache: .direct)
    let image = try bench.service.image(.name("vm1"))
    bench.engine.fail(
      ImageFailure(image: image.id, operation: "flush", offset: 4096, errno: 5, detail: "Input/output error"))
    var event: Event?
    for _ in 0..<1000 where event == nil {
      event = try bench.events().last { $0.kind == .imageChanged && $0.payload["failure"] != nil }
      try await Task.sleep(for: .milliseconds(10))
    }
    let failure = try #require(event?.payload["failure"])
    #expect(event?.subject == image.id.ulid && event?.payload["state"] == "attached")
    #expect(failure["operation"] == "flush" && failure["offset"] == 4096 && failure["errno"] == 5)
    #expect(failure["detail"] == "Input/output error")
  }

  @Test func detachedImageIsClosed() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    await expectRefusal(.imageNotAttached) { try await bench.service.detachImage(.name("vm1")) }
    try await bench.attach("vm1", cache: .direct)
    let job = try await bench.end(of: bench.service.detachImage(.name("vm1")).done())
    #expect(job.state == .succeeded)
    let image = try bench.service.image(.name("vm1"))
    #expect(image.state == .detached && image.attachment == nil)
    #expect(bench.engine.attachedImages.isEmpty)
    await expectRefusal(.imageNotAttached) { try await bench.service.detachImage(.name("vm1")) }
  }

  @Test func attachedImageRefusesWhatNeedsItAtRest() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let image = try await bench.attach("vm1")
    let service = bench.service
    await expectRefusal(.imageInUse) { try await service.checkImage(.name("vm1"), repairsLeaks: false) }
    await expectRefusal(.imageInUse) { try await service.checkImage(.name("vm1"), repairsLeaks: true) }
    await expectRefusal(.imageInUse) {
      try await service.restoreBackup(backup.id, to: .image(.name("vm1"), confirm: "vm1"))
    }
    await expectRefusal(.imageInUse) { try await service.unregisterImage(.name("vm1")) }
    await expectRefusal(.imageInUse) { try await service.attachImage(.name("vm1")) }
    await expectRefusal(.preconditionFailed) {
      try await service.detachImage(.name("vm1"), ChangeConditions(expectedRevision: image.revision + 1))
    }
    // Looking at it changes nothing.
    bench.engine.script { $0.inspect = { _ in throw DomainError(.sourceNotFound, "gone") } }
    await expectRefusal(.sourceNotFound) { try await service.inspectImage(.name("vm1")) }
    #expect(try service.image(.name("vm1")) == image)
  }

  @Test func refusalOfTheEngineFailsTheJobAndNothingIsAttached() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    bench.engine.script { $0.attach = { _ in throw DomainError(.imageLocked, "QEMU has it", remedy: "stop it") } }
    let job = try await bench.end(of: bench.service.attachImage(.name("vm1")).done())
    #expect(job.state == .failed && job.error?.code == .imageLocked && job.error?.remedy == "stop it")
    #expect(try bench.service.image(.name("vm1")).state == .detached)
    try bench.expectInLine()
  }

  @Test func cancelledAttachLeavesTheImageDetached() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let job = try await bench.service.attachImage(.name("vm1")).done()
    try await gate.reached()
    _ = try await bench.service.cancelJob(job.id)
    #expect(try await bench.end(of: job).state == .cancelled)
    #expect(try bench.service.image(.name("vm1")).state == .detached)
    try bench.expectInLine()
    gate.open()
    try await bench.attach("vm1")
  }

  @Test func cancelThatComesTooLateLeavesTheImageAttached() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    let gate = Gate()
    bench.engine.script { $0.work = { _, _ in try await gate.pass() } }
    let job = try await bench.service.attachImage(.name("vm1")).done()
    try await gate.reached()
    _ = try await bench.service.cancelJob(job.id)
    gate.open()
    #expect(try await bench.end(of: job).state == .succeeded)
    #expect(try bench.service.image(.name("vm1")).state == .attached)
    try bench.expectInLine()
  }

  @Test func jobsOfAnImageGoInTheOrderThatTheyWereAskedFor() async throws {
    let bench = try await ServiceBench { $0.concurrentJobs = 8 }
    try await bench.repository()
    try await bench.image("vm1")
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let first = try await bench.backUp("vm1")
    try await gate.reached()
    let attach = try await bench.service.attachImage(.name("vm1")).done()
    let second = try await bench.backUp("vm1")
    _ = try await bench.job(attach.id) { $0.waitingFor?.contains(first.id.description) == true }
    gate.open()
    #expect(try await bench.end(of: first).state == .succeeded)
    #expect(try await bench.end(of: attach).state == .succeeded)
    // The image was at rest when it was asked for, and isn't any more: that is as good.
    #expect(try await bench.end(of: second).state == .succeeded)
    try bench.expectInLine()
  }

  @Test func flushThatFailsFailsTheDetachButTheImageIsClosed() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    try await bench.attach("vm1")
    bench.engine.script { $0.detach = { _ in throw DomainError(.ioError, "the flush failed") } }
    let job = try await bench.end(of: bench.service.detachImage(.name("vm1")).done())
    #expect(job.state == .failed && job.error?.code == .ioError)
    #expect(try bench.service.image(.name("vm1")).state == .detached)
    try bench.expectInLine()
  }

  @Test func attachAndDetachCannotBePausedButACheckCan() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let attach = try await bench.service.attachImage(.name("vm1")).done()
    try await gate.reached()
    await expectRefusal(.jobNotPausable) { try await bench.service.pauseJob(attach.id) }
    gate.open()
    _ = try await bench.end(of: attach)
  }

  @Test func plansTellAndWriteNothing() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    let conditions = ChangeConditions<Job>(dryRun: true)
    let attach = try await bench.service.attachImage(.name("vm1"), cache: .writeback, conditions).planned()
    #expect(attach.action == "attach-image")
    guard case .attachment(_, .writeback) = attach.resource else { throw ExpectationFailure("\(attach.resource)") }
    let check = try await bench.service.checkImage(.name("vm1"), repairsLeaks: true, conditions).planned()
    #expect(check.action == "check-image" && check.steps.count == 2)
    #expect(try bench.eventKinds() == [.imageCreated])
    try await bench.attach("vm1")
    #expect(try await bench.service.detachImage(.name("vm1"), conditions).planned().action == "detach-image")
    #expect(try bench.service.image(.name("vm1")).state == .attached)
  }
}

@Suite struct CheckTests {
  @Test func soundImageSucceedsWithWhatWasFound() async throws {
    let bench = try await ServiceBench()
    let image = try await bench.image("vm1")
    let job = try await bench.end(of: bench.service.checkImage(.name("vm1"), repairsLeaks: false).done())
    #expect(job.state == .succeeded && job.result?["sound"] == true && job.result?["imageName"] == "vm1")
    #expect(job.result?["checkedBytes"] == .integer(1 << 16) && job.result?["findings"] == .array([]))
    #expect(job.result?["truncated"] == false)
    #expect(
      bench.engine.orders.contains {
        $0 == .check(CheckOrder(image: image.location, repairsLeaks: false), job: job.id)
      })
  }

  @Test func leaksAloneSucceed() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    bench.engine.script { script in
      script.check = { order in
        CheckReport(
          findings: ["cluster 7 is leaked"], errorCount: 0, leakCount: 1, repairedLeakCount: order.repairsLeaks ? 1 : 0,
          checkedBytes: 1)
      }
    }
    let job = try await bench.end(of: bench.service.checkImage(.name("vm1"), repairsLeaks: true).done())
    #expect(job.state == .succeeded && job.result?["leaks"] == 1 && job.result?["repairedLeaks"] == 1)
    #expect(job.result?["sound"] == true)
  }

  @Test func errorsFailTheJobAndTheResultTellsThem() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    bench.engine.script { script in
      script.check = { _ in
        CheckReport(
          findings: ["two clusters overlap", "b"], truncated: true, errorCount: 3, leakCount: 0, repairedLeakCount: 0,
          checkedBytes: 1)
      }
    }
    let job = try await bench.end(of: bench.service.checkImage(.name("vm1"), repairsLeaks: false).done())
    #expect(job.state == .failed && job.error?.code == .imageCorrupt)
    #expect(job.error?.detail.contains("two clusters overlap") == true)
    #expect(job.result?["errors"] == 3 && job.result?["sound"] == false && job.result?["truncated"] == true)
    #expect(job.result?["findings"] == ["two clusters overlap", "b"])
  }

  @Test func repairHasTheImageToItselfAndALookShares() async throws {
    let bench = try await ServiceBench { $0.concurrentJobs = 8 }
    try await bench.repository()
    try await bench.image("vm1")
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let backup = try await bench.backUp("vm1")
    let look = try await bench.service.checkImage(.name("vm1"), repairsLeaks: false).done()
    try await gate.reached(by: 2)
    let repair = try await bench.service.checkImage(.name("vm1"), repairsLeaks: true).done()
    _ = try await bench.job(repair.id) { $0.waitingFor?.contains("image 'vm1'") == true }
    gate.open()
    for job in [backup, look, repair] { #expect(try await bench.end(of: job).state == .succeeded) }
  }

  @Test func exportedImageIsCheckedButNotRepaired() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    try await bench.export("disk0")
    await expectRefusal(.imageInUse) { try await bench.service.checkImage(.name("vm1"), repairsLeaks: true) }
    let job = try await bench.end(of: bench.service.checkImage(.name("vm1"), repairsLeaks: false).done())
    #expect(job.state == .succeeded)
  }
}
