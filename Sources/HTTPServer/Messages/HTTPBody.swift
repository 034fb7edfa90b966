import Locks

/// A request's body, chunk by chunk, for one consumer.
///
/// At most `highWater` bytes (and one chunk) wait here; while they do, the client isn't read from.
/// Iterating throws `HTTPBodyTooLarge` beyond the limit and `HTTPClientGone` when the client breaks off.
package final class HTTPBody: Sendable, AsyncSequence {
  package typealias Element = [UInt8]

  private let queue: Lock<UploadQueue>

  /// A body that is already here.
  package init(bytes: [UInt8]) {
    var queue = UploadQueue(highWater: .max)
    if !bytes.isEmpty { _ = queue.offer(bytes) }
    _ = queue.finish(.end)
    self.queue = Lock(queue)
  }

  /// A body to come.
  init(highWater: Int) {
    queue = Lock(UploadQueue(highWater: highWater))
  }

  /// All of the body.
  ///
  /// - Throws: `HTTPBodyTooLarge` as soon as there are more than `limit` bytes, `HTTPClientGone`.
  package func collect(limit: Int) async throws -> [UInt8] {
    var bytes: [UInt8] = []
    for try await chunk in self {
      guard bytes.count + chunk.count <= limit else { throw HTTPBodyTooLarge(limit: limit) }
      bytes += chunk
    }
    return bytes
  }

  package func makeAsyncIterator() -> Iterator { Iterator(body: self) }

  package struct Iterator: AsyncIteratorProtocol {
    fileprivate let body: HTTPBody

    package mutating func next() async throws -> [UInt8]? { try await body.next() }
  }

  private func next() async throws -> [UInt8]? {
    let result = await withTaskCancellationHandler {
      await withCheckedContinuation { waiter in
        let (step, room) = queue.withLock { $0.take(waiter) }
        room?()
        if let step { waiter.resume(returning: step) }
      }
    } onCancel: {
      queue.withLock { $0.cancelWaiting() }?.resume(returning: .failure(CancellationError()))
    }
    return try result.get()
  }

  /// Told when there is room again after `offer` declined; called without a lock held.
  func onRoom(_ action: @escaping @Sendable () -> Void) {
    queue.withLock { $0.room = action }
  }

  /// Takes a chunk in. False: there is no room, and `onRoom` will tell when there is.
  func offer(_ chunk: [UInt8]) -> Bool {
    let (taken, waiter) = queue.withLock { $0.offer(chunk) }
    waiter?.resume(returning: .success(chunk))
    return taken
  }

  /// Nothing more is wanted: what is offered is thrown away.
  var isFinished: Bool {
    queue.withLock { $0.isFinished }
  }

  /// Ends the body; the first end counts.
  func finish(_ end: UploadQueue.End) {
    let waiter = queue.withLock { $0.finish(end) }
    waiter?.resume(returning: end.step)
  }
}

/// The chunks between libmicrohttpd's thread and the consumer. A value; its owner acts on what it returns.
struct UploadQueue: Sendable {
  typealias Step = Result<[UInt8]?, any Error>
  typealias Waiter = CheckedContinuation<Step, Never>

  enum End: Sendable {
    case end
    case failed(any Error)

    var step: Step {
      switch self {
      case .end: .success(nil)
      case .failed(let error): .failure(error)
      }
    }
  }

  /// With this many bytes waiting no more are taken.
  let highWater: Int
  var room: (@Sendable () -> Void)?
  private var chunks: [[UInt8]] = []
  private var bytes = 0
  private var end: End?
  private var waiter: Waiter?
  /// `offer` declined, and the producer wasn't told since that there is room.
  private var declined = false
  private var cancelled = false

  init(highWater: Int) {
    self.highWater = highWater
  }

  mutating func offer(_ chunk: [UInt8]) -> (taken: Bool, waiter: Waiter?) {
    if end != nil { return (true, nil) }
    if let waiter {
      self.waiter = nil
      return (true, waiter)
    }
    guard bytes < highWater else {
      declined = true
      return (false, nil)
    }
    chunks.append(chunk)
    bytes += chunk.count
    return (true, nil)
  }

  /// The next step, or nil: `waiter` is kept until there is one. And what to call when there is room again.
  mutating func take(_ waiter: Waiter) -> (step: Step?, room: (@Sendable () -> Void)?) {
    if case .failed(let error) = end { return (.failure(error), nil) }
    if cancelled { return (.failure(CancellationError()), nil) }
    guard chunks.isEmpty else {
      let chunk = chunks.removeFirst()
      bytes -= chunk.count
      return (.success(chunk), wake(if: bytes < highWater / 2))
    }
    if let end { return (end.step, nil) }
    self.waiter = waiter
    return (nil, wake(if: true))
  }

  var isFinished: Bool { end != nil }

  mutating func finish(_ end: End) -> Waiter? {
    guard self.end == nil else { return nil }
    self.end = end
    room = nil
    if case .failed = end { chunks = [] }
    defer { waiter = nil }
    return waiter
  }

  /// The consumer's task was cancelled, for good: this and every later wait ends.
  mutating func cancelWaiting() -> Waiter? {
    cancelled = true
    defer { waiter = nil }
    return waiter
  }

  private mutating func wake(if wanted: Bool) -> (@Sendable () -> Void)? {
    guard declined, wanted else { return nil }
    declined = false
    return room
  }
}
