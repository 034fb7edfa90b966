/// Lets requests on overlapping byte ranges take turns: readers of a range share it, a writer has it alone.
///
/// Confined to one loop. Fair: a request waits behind every earlier one that it conflicts with, granted or not,
/// so a stream of readers can't starve a writer. Nothing is done to prevent a task from waiting for itself:
/// hold one range at a time.
package final class RangeLock: @unchecked Sendable {
  // Safe to hand over: confined to its owner's loop, like the device it serves.

  package enum Mode: Sendable { case shared, exclusive }

  /// What `acquire` gives; hand it back to `release` exactly once.
  package struct Hold: Hashable, Sendable {
    fileprivate let ticket: UInt64
  }

  private struct Request {
    let ticket: UInt64
    let range: ByteRange
    let mode: Mode
    var waiter: UnsafeContinuation<Void, Never>?

    func conflicts(with other: Request) -> Bool {
      range.overlaps(other.range) && (mode == .exclusive || other.mode == .exclusive)
    }
  }

  // In order of arrival; those without a waiter are granted.
  private var requests: [Request] = []
  private var nextTicket: UInt64 = 0

  package init() {}

  /// True if no request holds or waits for any byte of `range` in a way that `mode` must wait for.
  package func isFree(_ range: ByteRange, _ mode: Mode) -> Bool {
    let probe = Request(ticket: 0, range: range, mode: mode)
    return !requests.contains { $0.conflicts(with: probe) }
  }

  /// Waits until the range is free for `mode`, and holds it.
  package func acquire(_ range: ByteRange, _ mode: Mode) async -> Hold {
    nextTicket += 1
    let ticket = nextTicket
    let free = isFree(range, mode)
    requests.append(Request(ticket: ticket, range: range, mode: mode))
    if !free { await withUnsafeContinuation { wait(for: ticket, $0) } }
    return Hold(ticket: ticket)
  }

  /// Leaves the continuation with its request, or resumes it if the range is free by now: where the caller isn't on an
  /// actor, others may run between the call of `withUnsafeContinuation` and its closure.
  private func wait(for ticket: UInt64, _ continuation: UnsafeContinuation<Void, Never>) {
    guard let index = requests.firstIndex(where: { $0.ticket == ticket }) else {
      preconditionFailure("a range was released before it was held")
    }
    if isBlocked(index) { requests[index].waiter = continuation } else { continuation.resume() }
  }

  /// Whether the request must wait for an earlier one.
  private func isBlocked(_ index: Int) -> Bool {
    requests[..<index].contains { $0.conflicts(with: requests[index]) }
  }

  package func release(_ hold: Hold) {
    guard let index = requests.firstIndex(where: { $0.ticket == hold.ticket }) else {
      preconditionFailure("a range was released twice")
    }
    let released = requests.remove(at: index)
    grantWaiters(overlapping: released.range, from: index)
  }

  /// Holds the range for the length of `body`.
  package func withRange<Result, Failure: Error>(
    _ range: ByteRange, _ mode: Mode,
    _ body: () async throws(Failure) -> Result
  ) async throws(Failure) -> Result {
    let hold = await acquire(range, mode)
    defer { release(hold) }
    return try await body()
  }

  /// No other request can have waited for the range: looking at all of them again would cost the square of their number.
  private func grantWaiters(overlapping range: ByteRange, from start: Int) {
    for index in start..<requests.count where requests[index].range.overlaps(range) {
      guard let waiter = requests[index].waiter else { continue }
      guard !isBlocked(index) else { continue }
      requests[index].waiter = nil
      waiter.resume()
    }
  }
}
