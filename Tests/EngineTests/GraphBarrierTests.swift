import BlockTesting
import Glibc
import Locks
import Model
import Testing

@testable import Engine

/// One moment over several open images on several loops.
struct GraphBarrierTests {
  private static func graphs(_ count: Int, _ test: TestEngine) async throws -> [ImageGraph] {
    var graphs: [ImageGraph] = []
    for index in 0..<count {
      let location = try test.makeQcow2("vm\(index)")
      try await test.attach(location, as: ImageID())
      graphs.append(try #require(test.engine.attachedImages.graph(at: location.source)))
    }
    return graphs
  }

  /// A change of the first image is stuck: nothing is swapped, the hold ends within its bound, and guests go on.
  @Test func deviceThatNeverAnswersIsGivenUpWithinTheBound() async throws {
    try await withEngine { test in
      let graphs = try await Self.graphs(3, test)
      let stuck = try await graphs[0].loop.run {
        let filter = CountingLink(graphs[0].slot.next)
        await graphs[0].insert(filter)
        filter.isStuck = true
        return filter
      }
      async let write: Void = graphs[0].loop.run { try await graphs[0].slot.writeBytes([1], at: 0) }
      try await eventually("the change is in flight") { try await graphs[0].loop.run { stuck.count == 1 } }
      let swaps = Lock(0)
      let start = ContinuousClock.now
      let refusal = await #expect(throws: DomainError.self) {
        try await GraphBarrier(graphs: graphs, bound: .seconds(2)).run { _ in swaps.withLock { $0 += 1 } }
      }
      // Of a busy machine it may be another one that comes too late.
      let named = graphs.contains { refusal?.detail.contains($0.name) == true }
      #expect(refusal?.code == .imageInUse && named, "\(refusal?.detail ?? "none")")
      #expect(ContinuousClock.now - start >= .seconds(2))
      #expect(swaps.withLock { $0 } == 0)
      for graph in graphs.dropFirst() { try await graph.loop.run { try await graph.slot.writeBytes([2], at: 0) } }
      try await graphs[0].loop.run { stuck.isStuck = false }
      try await write
      try await GraphBarrier(graphs: graphs, bound: .seconds(60)).run { _ in swaps.withLock { $0 += 1 } }
      #expect(swaps.withLock { $0 } == 3)
      for graph in graphs { try await graph.loop.run { try await graph.slot.writeBytes([3], at: 0) } }
    }
  }

  /// A loop that is busy until the bound has passed: what is held then is released by whoever held it.
  @Test(arguments: 0..<3) func holdThatComesTooLateIsReleased(_ late: Int) async throws {
    try await withEngine { test in
      let graphs = try await Self.graphs(3, test)
      let busy = Task { try await graphs[late].loop.run { _ = usleep(300_000) } }
      try await Task.sleep(for: .milliseconds(20))
      _ = await code { try await GraphBarrier(graphs: graphs, bound: .milliseconds(50)).run() }
      try await busy.value
      for graph in graphs { try await graph.loop.run { try await graph.slot.writeBytes([1], at: 0) } }
      try await GraphBarrier(graphs: graphs, bound: .seconds(60)).run()
    }
  }

  @Test func imageThatAnotherMomentHoldsIsRefusedAndTheOthersGoOn() async throws {
    try await withEngine { test in
      let graphs = try await Self.graphs(2, test)
      let other = try #require(await graphs[1].hold())
      let refusal = await #expect(throws: DomainError.self) {
        try await GraphBarrier(graphs: graphs, bound: .seconds(60)).run()
      }
      #expect(refusal?.detail.contains(graphs[1].name) == true)
      try await graphs[0].loop.run { try await graphs[0].slot.writeBytes([1], at: 0) }
      await graphs[1].release(other)
      try await GraphBarrier(graphs: graphs, bound: .seconds(60)).run()
    }
  }

  /// A guest writes to one image and then to the other: at no moment has it written more to the second.
  @Test func noWriterGetsInBetweenTwoImages() async throws {
    try await withEngine { test in
      let graphs = try await Self.graphs(2, test)
      let isOver = Lock(false)
      let guest = Task {
        while !isOver.withLock({ $0 }) {
          for graph in graphs { try await graph.loop.run { try await graph.slot.writeBytes([7], at: 512) } }
        }
      }
      for _ in 0..<20 {
        let counts = Lock<[String: UInt64]>([:])
        try await GraphBarrier(graphs: graphs, bound: .seconds(60)).run { graph in
          counts.withLock { $0[graph.name] = graph.slot.changeCount }
        }
        let (first, second) = try counts.withLock {
          (try #require($0[graphs[0].name]), try #require($0[graphs[1].name]))
        }
        #expect(first == second || first == second + 2)
        try await Task.sleep(for: .milliseconds(2))
      }
      isOver.withLock { $0 = true }
      try await guest.value
    }
  }
}
