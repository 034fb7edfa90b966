/// Requests that wait to be sent, and the task that sends them. Confined to the device's loop.
final class CallQueue {
  private var calls: [ClientCall] = []
  private var sender: UnsafeContinuation<Void, Never>?

  var isEmpty: Bool { calls.isEmpty }
  var count: Int { calls.count }

  func append(_ call: ClientCall) {
    calls.append(call)
    wakeSender()
  }

  /// Puts requests before all others.
  func putFirst(_ first: [ClientCall]) { calls = first + calls }

  func removeFirst() -> ClientCall { calls.removeFirst() }

  func removeAll() -> [ClientCall] {
    defer { calls = [] }
    return calls
  }

  /// Takes the request out; false if it isn't here.
  func remove(_ call: ClientCall) -> Bool {
    guard let index = calls.firstIndex(where: { $0 === call }) else { return false }
    calls.remove(at: index)
    return true
  }

  /// Waits for a request, or for ``wakeSender()``. Goes on at once while `isOver` holds.
  func untilFilled(or isOver: () -> Bool) async {
    // Looked at inside, as other tasks may run before the closure does.
    await withUnsafeContinuation { continuation in
      if calls.isEmpty, !isOver() { sender = continuation } else { continuation.resume() }
    }
  }

  func wakeSender() {
    let waiting = sender
    sender = nil
    waiting?.resume()
  }
}
