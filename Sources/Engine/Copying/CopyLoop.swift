import BlockCore
import Bytes
import EventLoops
import Glibc
import Model

/// Goes through the regions of a device once and gives them, read, hashed and maybe compressed, to a sink.
///
/// One task plans; each step is a child task that reads on the loop, has the worker pool hash and compress, is admitted
/// to the sink when no other is, and is stored beside others: nothing waits for what comes before it on the disk. Memory
/// is bounded by ``AdaptiveDepth/maximum`` chunks of two times their size. The first failure ends it: no step begins any
/// more, none is admitted, and those that are under way are cancelled where they haven't ended at the next look (see
/// ``watch()``), for a peer may be silent.
package actor CopyLoop {
  package nonisolated let loop: EventLoop
  package nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

  private let source: any BlockDevice
  private let regions: any Regions
  private let byteCount: UInt64
  private let geometry: ChunkGeometry
  private let describe: @Sendable (BlockError) -> DomainError
  private let sink: any CopySink
  private let compressors: CompressorShelf?
  private let work: any BackgroundWork
  private let control: any JobControl
  private let finished: @Sendable (ByteRange) -> Void

  private var pace: any CopyPace
  private var freeChunks: [Chunk] = []
  /// Bytes that were planned before each step that is under way, by ticket: as many as the least of them are done.
  private var underWay: [Int: UInt64] = [:]
  private var nextTicket = 0
  private var plannedByteCount: UInt64 = 0
  private var isAdmitting = false
  private var admissionWaiters: [UnsafeContinuation<Void, Never>] = []
  private var slotWaiter: UnsafeContinuation<Void, Never>?
  private var failure: (any Error)?

  /// Longest sleep for the speed limit before the limit and the job are looked at again.
  private static let longestSleep = 0.1
  /// Between two looks at whether the job was cancelled, while the copy waits for its source or its sink.
  private static let watchInterval = Duration.seconds(1)

  /// - Parameters:
  ///   - source: a device of `loop`.
  ///   - byteCount: how much of it there is to copy, from its start.
  ///   - regions: what it is made of; nil: what its block status says.
  ///   - compressors: of the geometry's clusters.
  ///   - pace: nil: as fast as pays.
  ///   - finished: told, on the loop, of each step whose bytes won't be read again.
  ///   - describe: what a failure to read the source is called.
  package init(
    on loop: EventLoop, from source: any BlockDevice, byteCount: UInt64, regions: (any Regions)? = nil,
    to sink: sending any CopySink, geometry: ChunkGeometry = .standard, compressors: CompressorShelf? = nil,
    pace: (any CopyPace)? = nil, work: any BackgroundWork, control: any JobControl,
    finished: @escaping @Sendable (ByteRange) -> Void = { _ in },
    describe: @escaping @Sendable (BlockError) -> DomainError
  ) {
    self.loop = loop
    self.source = source
    self.regions = regions ?? BlockStatusRegions(source, ByteRange(0..<byteCount))
    self.byteCount = byteCount
    self.geometry = geometry
    self.sink = sink
    self.compressors = compressors
    self.work = work
    self.control = control
    self.finished = finished
    self.describe = describe
    self.pace = pace ?? AdaptivePace(now: Self.now)
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
        var plan = CopyPlan(regions, byteCount: byteCount, geometry: geometry)
        while failure == nil, let step = try await next(&plan) {
          if step.action != .skip {
            await waitForSlot()
            guard failure == nil else { break }
            let ticket = nextTicket
            nextTicket += 1
            underWay[ticket] = plannedByteCount
            group.addTask { await self.carry(step, ticket) }
          } else {
            finished(step.range)
          }
          plannedByteCount += step.range.length
        }
      } catch {
        fail(error)
      }
    }
  }

  private func next(_ plan: inout CopyPlan) async throws -> CopyStep? {
    do {
      let control = control
      try await control.checkpoint()
      guard let step = try await plan.next({ try await control.checkpoint() }) else { return nil }
      if step.action == .copy { try await holdToLimit(step.range.length) }
      return step
    } catch let error as BlockError {
      throw describe(error)
    }
  }

  private func holdToLimit(_ byteCount: UInt64) async throws {
    while true {
      let delay = pace.delay(limit: control.speedLimit, now: Self.now)
      guard delay > 0, failure == nil else { break }
      do throws(SystemError) {
        try await loop.sleep(for: .seconds(min(delay, Self.longestSleep)))
      } catch {
        throw CancellationError()
      }
      try await control.checkpoint()
    }
    pace.begin(byteCount: byteCount, now: Self.now)
  }

  /// One step's way from the source to the sink.
  private func carry(_ step: CopyStep, _ ticket: Int) async {
    let chunk = freeChunks.popLast() ?? Chunk(geometry)
    do {
      var base: KnownBase?
      if step.action == .copy {
        let isGoingOn = try await exclusively { base = try await self.sink.base(of: step.range, self.geometry) }
        guard isGoingOn else { return end(chunk, ticket) }
      }
      do throws(BlockError) {
        try await chunk.begin(step, over: base, from: source)
      } catch {
        throw describe(error)
      }
      if step.action == .copy { await work.run { [compressors] in chunk.process(compressors) } }
      if try await exclusively({ try await self.sink.admit(chunk) }) {
        try await sink.store(chunk)
        if step.action == .copy { pace.complete(byteCount: step.range.length, now: Self.now) }
        finished(step.range)
      }
    } catch {
      fail(error)
    }
    end(chunk, ticket)
  }

  /// Has the sink judge: nothing else of it is asked meanwhile. False if the copy has failed before its turn.
  private func exclusively(_ judge: () async throws -> Void) async throws -> Bool {
    while isAdmitting, failure == nil {
      await withUnsafeContinuation { admissionWaiters.append($0) }
    }
    guard failure == nil else { return false }
    isAdmitting = true
    defer {
      isAdmitting = false
      if !admissionWaiters.isEmpty { admissionWaiters.removeFirst().resume() }
    }
    try await judge()
    return true
  }

  private func end(_ chunk: Chunk, _ ticket: Int) {
    if freeChunks.count < AdaptiveDepth.maximum { freeChunks.append(chunk) }
    underWay[ticket] = nil
    if failure == nil { control.report(done: underWay.values.min() ?? plannedByteCount, total: byteCount) }
    guard underWay.count < pace.depth || failure != nil else { return }
    slotWaiter?.resume()
    slotWaiter = nil
  }

  private func waitForSlot() async {
    while underWay.count >= pace.depth, failure == nil {
      await withUnsafeContinuation { slotWaiter = $0 }
    }
  }

  private func fail(_ error: any Error) {
    if failure == nil { failure = error }
    for waiter in admissionWaiters { waiter.resume() }
    admissionWaiters = []
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
