import BlockCore
import BlockFilters
import BlockTesting
import Foundation
import Locks
import Model
import ModelTesting
import Testing

@testable import Engine

/// An open image: filters that come and go under its users, and its format below them.
struct ImageGraphTests {
  /// Writers never stop while a filter slides in and out: each change that begins after the moment passes it, none is
  /// lost or made twice, and what is read in the end is what was written last.
  @Test func filterSlidesInAndOutUnderAStorm() async throws {
    try await withEngine { test in
      let location = try test.makeQcow2()
      let image = ImageID()
      try await test.attach(location, as: image)
      let graph = try #require(test.engine.attachedImages.graph(at: location.source))
      let seed = UInt64.random(in: 1...1_000_000)
      let laneCount = 6
      let isOver = Lock(false)
      let totals = try await withThrowingTaskGroup(of: Int.self) { group in
        for lane in 0..<laneCount {
          group.addTask {
            var random = SeededRandom(seed: seed &* 31 &+ UInt64(lane))
            var round = 0
            while !isOver.withLock({ $0 }) || round < 50 {
              round += 1
              let block = round < 50 ? random.below(64) : 63
              let bytes = [UInt8](repeating: UInt8(truncatingIfNeeded: round), count: 512)
              let offset = UInt64((block * laneCount + lane) * 512)
              try await graph.loop.run { try await graph.slot.writeBytes(bytes, at: offset) }
              let last = UInt64(2 << 20) + UInt64(lane * 512)
              try await graph.loop.run { try await graph.slot.writeBytes(bytes, at: last) }
            }
            return round
          }
        }
        for turn in 1...TestEffort.rounds(4) {
          let filter = try await graph.loop.run { CountingLink(graph.slot.next) }
          let countIn = Lock<UInt64>(0)
          try await Self.atRest(graph, "seed \(seed), turn \(turn)") {
            await graph.insert(filter)
            countIn.withLock { $0 = graph.slot.changeCount }
          }
          try await eventually("changes pass the filter") { try await graph.loop.run { filter.count > 5 } }
          try await Self.atRest(graph, "seed \(seed), turn \(turn)") {
            let passed = (graph.slot.changeCount - countIn.withLock { $0 }) / 2
            #expect(UInt64(filter.count) == passed, "seed \(seed), turn \(turn)")
            await graph.remove(filter)
          }
          let countOut = try await graph.loop.run { filter.count }
          try await Task.sleep(for: .milliseconds(2))
          #expect(try await graph.loop.run { filter.count } == countOut, "seed \(seed), turn \(turn)")
        }
        isOver.withLock { $0 = true }
        return try await group.reduce(into: []) { $0.append($1) }
      }
      #expect(await graph.filters.isEmpty)
      #expect(try await graph.loop.run { graph.slot.changeCount } == UInt64(totals.reduce(0, +) * 2 * 2))
      for lane in 0..<laneCount {
        let offset = UInt64(2 << 20) + UInt64(lane * 512)
        let bytes = try await graph.loop.run { try await graph.slot.readBytes(512, at: offset) }
        #expect(Set(bytes).count == 1, "seed \(seed)")
      }
      try await test.engine.detach(image)
      try Tool.judge("check", "-f", "qcow2", location.source.place)
    }
  }

  private static func atRest(
    _ graph: ImageGraph, _ comment: Comment, _ body: @Sendable @escaping () async throws -> Void
  ) async throws {
    try await graph.loop.run {
      let hold = try #require(await graph.hold(), comment)
      #expect(await graph.drain(hold), comment)
      try await body()
      await graph.release(hold)
    }
  }

  @Test func formatIsReachedBelowTheFilters() async throws {
    try await withEngine { test in
      let location = try test.makeQcow2()
      try await test.attach(location, as: ImageID())
      let graph = try #require(test.engine.attachedImages.graph(at: location.source))
      try await graph.loop.run {
        let (lower, upper) = (CountingLink(graph.slot.next), CountingLink(graph.slot.next))
        await graph.insert(lower)
        await graph.insert(upper)
        let between = CountingLink(graph.slot.next)
        await graph.insert(between, below: upper)
        let order = await graph.filters.map { $0 as AnyObject }
        #expect(order[0] === upper && order[1] === between && order[2] === lower)
        #expect(graph.image.format.qcow2 != nil)
        try await graph.slot.writeBytes([1], at: 7)
        #expect([upper, between, lower].map(\.count) == [1, 1, 1])
        await graph.remove(between)
        try await graph.slot.writeBytes([2], at: 7)
        #expect([upper, between, lower].map(\.count) == [2, 1, 2])
        await graph.remove(upper)
        await graph.remove(lower)
        try await graph.slot.writeBytes([3], at: 7)
        #expect([upper, between, lower].map(\.count) == [2, 1, 2])
        #expect(try await graph.slot.readBytes(1, at: 7) == [3])
      }
    }
  }

  /// A timer of an earlier hold must not end a later one.
  @Test func holdEndsOnlyByItsOwnRelease() async throws {
    try await withEngine { test in
      let location = try test.makeQcow2()
      try await test.attach(location, as: ImageID())
      let graph = try #require(test.engine.attachedImages.graph(at: location.source))
      let first = try #require(await graph.hold())
      #expect(await graph.hold() == nil)
      await graph.release(first)
      let second = try #require(await graph.hold())
      await graph.release(first)
      #expect(await graph.drain(second))
      #expect(await !graph.drain(first))
      await graph.release(second)
    }
  }
}

/// Counts the changes that pass it, and holds some of them up.
final class CountingLink: GraphFilter, @unchecked Sendable {
  // Safe to hand over: confined to the test's loop.
  var next: any BlockDevice
  private(set) var count = 0
  /// Changes don't end while it is true.
  var isStuck = false

  init(_ next: any BlockDevice) { self.next = next }

  nonisolated(nonsending)
    func change(
      _ kind: BlockChange, _ range: ByteRange,
      _ perform: nonisolated(nonsending) (ByteRange) async throws(BlockError) -> Void
    ) async throws(BlockError)
  {
    count += 1
    while isStuck { await Task.yield() }
    try await perform(range)
  }
}
