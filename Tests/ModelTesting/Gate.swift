import Locks
import Model

/// A place where scripted work waits until the test lets it on.
package final class Gate: Sendable {
  private struct State {
    var isOpen = false
    var arrivals = 0
  }

  private let state: Lock<State>

  /// How long anybody waits before it is called a failure.
  package static let timeout = Duration.seconds(20)
  private static let pollInterval = Duration.milliseconds(1)

  package init(isOpen: Bool = false) { state = Lock(State(isOpen: isOpen)) }

  package func open() { state.withLock { $0.isOpen = true } }
  package func close() { state.withLock { $0.isOpen = false } }

  package var isOpen: Bool { state.withLock { $0.isOpen } }

  /// How many came to the gate so far.
  package var arrivals: Int { state.withLock { $0.arrivals } }

  /// Waits until it is open. Honours the job meanwhile: stands still while it is paused, and throws
  /// `CancellationError` when it is cancelled.
  package func pass(_ control: (any JobControl)? = nil) async throws {
    state.withLock { $0.arrivals += 1 }
    try await wait("the gate wasn't opened") {
      try await control?.checkpoint()
      return self.state.withLock { $0.isOpen }
    }
  }

  /// Waits until `count` have come to the gate, whether or not they went through.
  package func reached(by count: Int = 1) async throws {
    try await wait("\(count) were expected at the gate, \(arrivals) came") { self.arrivals >= count }
  }

  private func wait(_ failure: @autoclosure () -> String, until holds: () async throws -> Bool) async throws {
    let deadline = ContinuousClock.now + Self.timeout
    while try await !holds() {
      guard ContinuousClock.now < deadline else { throw ExpectationFailure(failure()) }
      try await Task.sleep(for: Self.pollInterval)
    }
  }
}
