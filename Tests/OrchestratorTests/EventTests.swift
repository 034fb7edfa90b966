import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@Suite struct EventTests {
  /// The next event, leaving out progress.
  private func next(_ stream: EventStream) async throws -> Event {
    while let item = await stream.next() {
      switch item {
      case .event(let event): return event
      case .progress: continue
      case .gap(let newest): throw ExpectationFailure("a gap up to \(newest)")
      }
    }
    throw ExpectationFailure("the stream is over")
  }

  private func changeLabels(_ bench: ServiceBench, _ count: Int) async throws {
    for number in 0..<count {
      _ = try await bench.service.changeImage(.name("vm1"), ImageChange(labels: .merge(["n": "\(number)-\(UUID())"])))
    }
  }

  @Test func listenerHearsWhatHappensFromNowOn() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    let stream = try bench.service.events()
    let image = try await bench.image("vm2")
    let event = try await next(stream)
    #expect(event.kind == .imageCreated && event.subject == image.id.ulid && event.id == 2)
  }

  @Test func listenerWhoComesBackHearsWhatItMissed() async throws {
    let bench = try await ServiceBench { $0.recentEvents = 4 }
    try await bench.image("vm1")
    try await changeLabels(bench, 20)
    let stream = try bench.service.events(after: 3)
    for id in 4...21 { #expect(try await next(stream).id == Int64(id)) }
    try await changeLabels(bench, 1)
    #expect(try await next(stream).id == 22)
  }

  @Test func idOlderThanWhatIsKeptIsAGap() async throws {
    let bench = try await ServiceBench {
      $0.eventsKept = 10
      $0.pruneInterval = 5
      $0.recentEvents = 4
    }
    try await bench.image("vm1")
    try await changeLabels(bench, 40)
    let span = try #require(try bench.stored.read { try $0.eventSpan() })
    #expect(span.upperBound == 41)
    #expect(span.lowerBound > 20 && span.count >= 10 && span.count <= 15)
    let late = try bench.service.events(after: 2)
    #expect(await late.next() == .gap(newest: 41))
    try await changeLabels(bench, 1)
    #expect(try await next(late).id == 42)
    // The oldest that is kept is the next one: nothing was missed.
    let justInTime = try bench.service.events(after: span.lowerBound - 1)
    #expect(try await next(justInTime).id >= span.lowerBound)
  }

  @Test func idFromALostCatalogIsAGap() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    let stream = try bench.service.events(after: 5000)
    #expect(await stream.next() == .gap(newest: 1))
    try await bench.image("vm2")
    #expect(try await next(stream).id == 2)
  }

  @Test func eventsOfEarlierRunsAreReplayed() async throws {
    let stored = InMemoryCatalog()
    let before = try await ServiceBench(catalog: stored)
    try await before.image("vm1")
    await before.service.stop(grace: .zero)
    let bench = try await ServiceBench(catalog: stored)
    let stream = try bench.service.events(after: 0)
    #expect(try await next(stream).kind == .imageCreated)
    try await bench.image("vm2")
    #expect(try await next(stream).id == 2)
  }

  @Test func jobsStreamHoldsTheWholeJobAndEndsWithIt() async throws {
    let bench = try await ServiceBench()
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    try await bench.repository()
    try await bench.image("vm1")
    try await bench.image("vm2")
    let job = try await bench.backUp("vm1")
    let other = try await bench.backUp("vm2")
    try await gate.reached(by: 2)
    let stream = try bench.service.events(job: job.id)
    gate.open()
    var events: [Event] = []
    while let item = await stream.next() {
      if case .event(let event) = item { events.append(event) }
    }
    #expect(events.allSatisfy { $0.job == job.id })
    #expect(events.map(\.kind) == [.backupCreated, .jobCreated, .jobChanged, .backupChanged, .jobChanged])
    _ = try await bench.end(of: other)
    // Of an ended job: the same again, or nothing behind its last event.
    let again = try bench.service.events(job: job.id)
    for event in events { #expect(await again.next() == .event(event)) }
    #expect(await again.next() == nil)
    let behind = try bench.service.events(after: events[4].id, job: job.id)
    #expect(await behind.next() == nil)
    await expectRefusal(.notFound) { try bench.service.events(job: JobID()) }
  }

  @Test func progressIsToldWithoutBeingStored() async throws {
    let bench = try await ServiceBench()
    let gate = Gate()
    bench.engine.script { script in
      script.work = { _, control in
        control.report(done: 300, total: 1000)
        try await gate.pass(control)
      }
    }
    try await bench.repository()
    try await bench.image("vm1")
    let job = try await bench.backUp("vm1")
    let stream = try bench.service.events(job: job.id)
    var progress: JobProgress?
    while progress == nil, let item = await stream.next() {
      if case .progress(let id, let seen) = item {
        #expect(id == job.id)
        progress = seen
      }
    }
    #expect(progress?.done == 300 && progress?.total == 1000)
    gate.open()
    _ = try await bench.end(of: job)
    #expect(try bench.events().filter { $0.job == job.id }.count == 5)
  }

  @Test func slowListenerSkipsProgressAndKeepsEvents() async throws {
    let bench = try await ServiceBench { $0.tickInterval = .milliseconds(1) }
    bench.engine.script { script in
      script.work = { _, control in
        for done in 1...50 {
          control.report(done: UInt64(done), total: 50)
          try await Task.sleep(for: .milliseconds(1))
        }
      }
    }
    try await bench.repository()
    try await bench.image("vm1")
    let stream = try bench.service.events()
    let job = try await bench.end(of: bench.backUp("vm1"))
    var kinds: [Event.Kind] = []
    for _ in 0..<5 { kinds.append(try await next(stream).kind) }
    #expect(kinds.last == .jobChanged && job.state == .succeeded)
  }

  @Test func cancelledListenerEnds() async throws {
    let bench = try await ServiceBench()
    let stream = try bench.service.events()
    let listener = Task { await stream.next() }
    try await Task.sleep(for: .milliseconds(5))
    listener.cancel()
    #expect(await listener.value == nil)
  }

  @Test func stopEndsStreams() async throws {
    let bench = try await ServiceBench()
    let stream = try bench.service.events()
    let listener = Task { await stream.next() }
    try await Task.sleep(for: .milliseconds(5))
    await bench.service.stop(grace: .zero)
    #expect(await listener.value == nil)
  }

  @Test func listenersUnderLoadHearEachEventOnceInOrder() async throws {
    let seed = UInt64.random(in: 0 ... .max)
    print("seed \(seed)")
    let bench = try await ServiceBench { $0.recentEvents = 16 }
    for number in 0..<8 { try await bench.image(ResourceName("vm\(number)")!) }
    let writers = 8
    let changes = 60
    let total = Int64(8 + writers * changes)
    try await withThrowingTaskGroup(of: Void.self) { group in
      for writer in 0..<writers {
        group.addTask {
          for number in 0..<changes {
            let name = ResourceName("vm\(writer)")!
            _ = try await bench.service.changeImage(.name(name), ImageChange(labels: .merge(["n": "\(number)"])))
          }
        }
      }
      for listener in 0..<8 {
        group.addTask {
          var random = TestRandom(seed &+ UInt64(listener))
          var last: Int64 = 0
          var stream = try bench.service.events(after: last)
          while last < total {
            let event = try await next(stream)
            #expect(event.id == last + 1)
            last = event.id
            switch UInt.random(in: 0..<20, using: &random) {
            case 0: try await Task.sleep(for: .milliseconds(2))
            case 1: stream = try bench.service.events(after: last)
            default: break
            }
          }
        }
      }
      try await group.waitForAll()
    }
  }
}
