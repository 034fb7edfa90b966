import BlockCore
import EventLoops
import Glibc
import Model

/// What a copy does with its chunks: each has zeroes, by its plan, and then data; either may be empty.
package protocol CopySink: AnyObject {
  /// Takes note of a chunk and judges it: in the order of the guest's bytes, one call at a time, without gaps.
  nonisolated(nonsending) func admit(_ chunk: Chunk) async throws

  /// Stores a chunk that was admitted. Begun in the same order, but many at a time, and they end in any order.
  nonisolated(nonsending) func store(_ chunk: Chunk) async throws
}

/// Reads a device once from end to end and gives its chunks, hashed and maybe compressed, to a sink.
///
/// One task plans; each chunk is a child task that reads on the loop, has the worker pool hash and compress, waits for
/// its turn to be admitted to the sink, and is stored beside others. Memory is bounded by ``AdaptiveDepth/maximum``
/// chunks of two times 1 MiB. The first failure ends it: no chunk begins any more, none is admitted, and those that
/// are under way are cancelled where they haven't ended at the next look (see ``watch()``), for a peer may be silent.
package actor CopyLoop {
  package nonisolated let loop: EventLoop
  package nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

  private let source: any BlockDevice
  private let byteCount: UInt64
  private let describe: @Sendable (BlockError) -> DomainError
  private let sink: any CopySink
  private let compressors: CompressorShelf?
  private let work: any BackgroundWork
  private let control: any JobControl

  private var depth: AdaptiveDepth
  private var limit = SpeedLimit()
  private var freeChunks: [Chunk] = []
  /// Where the chunks under way begin, by ticket: all before the first of them is done.
  private var underWay: [Int: UInt64] = [:]
  private var nextTicket = 0
  private var turn = 0
  private var turnWaiters: [Int: UnsafeContinuation<Void, Never>] = [:]
  private var slotWaiter: UnsafeContinuation<Void, Never>?
  private var failure: (any Error)?

  /// Longest sleep for the speed limit before the limit and the job are looked at again.
  private static let longestSleep = 0.1
  /// How often somebody looks whether the job was cancelled while the copy waits for its source or its sink.
  private static let watchInterval = Duration.seconds(1)

  /// - Parameters:
  ///   - source: a device of `loop`.
  ///   - byteCount: how much of it is copied, from its start.
  ///   - describe: what a failure to read the source is called.
  package init(
    on loop: EventLoop, from source: any BlockDevice, byteCount: UInt64, to sink: sending any CopySink,
    compressors: CompressorShelf? = nil, work: any BackgroundWork, control: any JobControl,
    describe: @escaping @Sendable (BlockError) -> DomainError
  ) {
    self.loop = loop
    self.source = source
    self.byteCount = byteCount
    self.sink = sink
    self.compressors = compressors
    self.work = work
    self.control = control
    self.describe = describe
    depth = AdaptiveDepth(now: Self.now)
  }

  /// Copies everything. Run it with the loop as the task's preferred executor.
  package func run() async throws {
    control.report(done: 0, total: byteCount)
    await withTaskGroup(of: Void.self) { group in
      group.addTask { await self.copy() }
      group.addTask { await self.watch() }
      await group.next()
      group.cancelAll()
    }
    if let failure { throw failure }
    control.report(done: byteCount, total: byteCount)
  }

  /// Ends when the copy has failed, or its job was cancelled.
  private func watch() async {
    while failure == nil {
      do {
        try await loop.sleep(for: Self.watchInterval)
        try await control.checkpoint()
      } catch {
        // Cancelled itself, it is told that the copy is over.
        if !Task.isCancelled { fail(error) }
        return
      }
    }
  }

  private func copy() async {
    await withDiscardingTaskGroup { group in
      do {
        var planner = ChunkPlanner(source, byteCount: byteCount)
        while failure == nil, let plan = try await next(&planner) {
          await waitForSlot()
          guard failure == nil else { break }
          let ticket = nextTicket
          nextTicket += 1
          underWay[ticket] = plan.zeroes.offset
          group.addTask { await self.carry(plan, ticket) }
        }
      } catch {
        fail(error)
      }
    }
  }

  private func next(_ planner: inout ChunkPlanner) async throws -> ChunkPlan? {
    do {
      let control = control
      try await control.checkpoint()
      guard let plan = try await planner.next({ try await control.checkpoint() }) else { return nil }
      try await holdToLimit(plan.data.length)
      return plan
    } catch let error as BlockError {
      throw describe(error)
    }
  }

  private func holdToLimit(_ byteCount: UInt64) async throws {
    while true {
      let delay = limit.delay(limit: control.speedLimit, now: Self.now)
      guard delay > 0, failure == nil else { break }
      do throws(SystemError) {
        try await loop.sleep(for: .seconds(min(delay, Self.longestSleep)))
      } catch {
        throw CancellationError()
      }
      try await control.checkpoint()
    }
    limit.pass(byteCount, now: Self.now)
  }

  /// One chunk's way from the source to the sink.
  private func carry(_ plan: ChunkPlan, _ ticket: Int) async {
    let chunk = freeChunks.popLast() ?? Chunk()
    do {
      do throws(BlockError) {
        try await chunk.read(plan, from: source)
      } catch {
        throw describe(error)
      }
      if !plan.data.isEmpty { await work.run { [compressors] in chunk.process(compressors) } }
      await waitForTurn(ticket)
      guard failure == nil else { return end(chunk, ticket) }
      try await sink.admit(chunk)
      passTurn()
      try await sink.store(chunk)
      if !plan.data.isEmpty { depth.completed(byteCount: plan.data.length, now: Self.now) }
    } catch {
      fail(error)
    }
    end(chunk, ticket)
  }

  private func end(_ chunk: Chunk, _ ticket: Int) {
    if freeChunks.count < AdaptiveDepth.maximum { freeChunks.append(chunk) }
    underWay[ticket] = nil
    if failure == nil { control.report(done: underWay.values.min() ?? chunk.plan.data.end, total: byteCount) }
    guard underWay.count < depth.depth || failure != nil else { return }
    slotWaiter?.resume()
    slotWaiter = nil
  }

  private func waitForSlot() async {
    while underWay.count >= depth.depth, failure == nil {
      await withUnsafeContinuation { slotWaiter = $0 }
    }
  }

  private func waitForTurn(_ ticket: Int) async {
    guard ticket != turn, failure == nil else { return }
    await withUnsafeContinuation { turnWaiters[ticket] = $0 }
  }

  private func passTurn() {
    turn += 1
    turnWaiters.removeValue(forKey: turn)?.resume()
  }

  private func fail(_ error: any Error) {
    if failure == nil { failure = error }
    for waiter in turnWaiters.values { waiter.resume() }
    turnWaiters = [:]
    slotWaiter?.resume()
    slotWaiter = nil
  }

  /// Seconds on the monotonic clock.
  private static var now: Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }
}
