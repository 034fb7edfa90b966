import BlockCore
import Locks

/// Passes everything on to `next`, and holds some writes back until it is told to go on.
final class GateDevice: BlockFilter, @unchecked Sendable {
  // Safe to hand over: confined to its home loop, like every device; what others touch is locked.

  /// One element for each write that is held; ends with the last.
  let stopped: AsyncStream<Void>
  private let stop: AsyncStream<Void>.Continuation
  let next: any BlockDevice
  private var stops: Set<Int>
  private var writeCount = 0
  private let held = Lock<[CheckedContinuation<Void, Never>]>([])
  private let through = Lock(false)

  /// - Parameter stops: the writes that are held, counted from 1.
  init(_ next: any BlockDevice, stops: Set<Int>) {
    self.next = next
    self.stops = stops
    (stopped, stop) = AsyncStream.makeStream()
  }

  /// Writes that are held now.
  var heldCount: Int { held.withLock { $0.count } }

  /// True once every write that is to be held has come.
  var isThrough: Bool { through.withLock { $0 } }

  /// Nobody writes any more: ``stopped`` ends.
  func end() { stop.finish() }

  /// Lets go what is held.
  func open() {
    let waiting = held.withLock { held in
      defer { held = [] }
      return held
    }
    for waiter in waiting { waiter.resume() }
  }

  nonisolated(nonsending)
    func change(
      _ kind: BlockChange, _ range: ByteRange,
      _ perform: nonisolated(nonsending) (ByteRange) async throws(BlockError) -> Void
    ) async throws(BlockError)
  {
    if case .write = kind {
      writeCount += 1
      if stops.remove(writeCount) != nil { await waitToBeLetGo() }
    }
    try await perform(range)
  }

  nonisolated(nonsending)
    private func waitToBeLetGo() async
  {
    await withCheckedContinuation { continuation in
      held.withLock { $0.append(continuation) }
      stop.yield()
      guard stops.isEmpty else { return }
      through.withLock { $0 = true }
      stop.finish()
    }
  }
}
