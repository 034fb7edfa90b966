import Locks
import Synchronization

/// What is alive in a server: requests, event streams.
final class LiveRequests: Sendable {
  private struct State: Sendable {
    var exchanges: [UInt64: Exchange] = [:]
    var streams: [UInt64: ServerSentEvents] = [:]
    var isStopping = false
    var isClosing = false
  }

  private let state = Lock(State())
  private let liveExchanges = Atomic<Int>(0)
  private let numbers = Atomic<UInt64>(0)
  private let changed: @Sendable () -> Void

  /// - Parameter changed: called on any thread, perhaps with a lock held, when the server's thread should look again:
  ///   the first event stream or the last request of a stopping server is here.
  init(changed: @escaping @Sendable () -> Void) {
    self.changed = changed
  }

  /// A number that no other exchange of this server has.
  func nextNumber() -> UInt64 {
    numbers.wrappingAdd(1, ordering: .relaxed).newValue
  }

  // MARK: Objects alive

  /// Exchanges that weren't freed yet, handlers that ignore their cancellation included.
  var exchangeCount: Int { liveExchanges.load(ordering: .relaxed) }
  var streamCount: Int { state.withLock { $0.streams.count } }
  /// Requests whose head is complete and whose answer isn't sent.
  var requestCount: Int { state.withLock { $0.exchanges.count } }

  func exchangeBegan() { liveExchanges.wrappingAdd(1, ordering: .relaxed) }
  func exchangeEnded() { liveExchanges.wrappingSubtract(1, ordering: .relaxed) }

  // MARK: Requests

  /// Enters a request. Tells whether the server is stopping, and whether it waits for nothing any more.
  func enter(_ exchange: Exchange) -> (isStopping: Bool, isClosing: Bool) {
    state.withLock { state in
      state.exchanges[exchange.number] = exchange
      return (state.isStopping, state.isClosing)
    }
  }

  func exchange(_ number: UInt64) -> Exchange? {
    state.withLock { $0.exchanges[number] }
  }

  func leave(_ exchange: Exchange) {
    let isLast = state.withLock { state in
      state.exchanges[exchange.number] = nil
      state.streams[exchange.number] = nil
      return state.isStopping && state.exchanges.isEmpty
    }
    if isLast { changed() }
  }

  var isStopping: Bool { state.withLock { $0.isStopping } }

  /// New requests are refused from here on. Returns the open event streams.
  func stop() -> [ServerSentEvents] {
    state.withLock { state in
      state.isStopping = true
      return Array(state.streams.values)
    }
  }

  /// Nothing waits any more from here on. Returns the requests that are still here.
  func closeDown() -> [Exchange] {
    state.withLock { state in
      state.isClosing = true
      return Array(state.exchanges.values)
    }
  }

  // MARK: Event streams

  enum StreamEntry {
    case entered
    case limitReached
    case stopping
  }

  func enter(_ stream: ServerSentEvents, of exchange: Exchange, limit: Int) -> StreamEntry {
    state.withLock { state in
      if state.isStopping { return .stopping }
      guard state.streams.count < limit else { return .limitReached }
      state.streams[exchange.number] = stream
      // Without streams the server's thread sleeps long.
      if state.streams.count == 1 { changed() }
      return .entered
    }
  }

  /// The streams whose turn it is to beat: those with `number % turns == turn`.
  func streams(turn: UInt64, of turns: UInt64) -> [ServerSentEvents] {
    state.withLock { state in
      state.streams.compactMap { $0.key % turns == turn ? $0.value : nil }
    }
  }
}
