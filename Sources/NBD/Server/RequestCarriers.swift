/// The tasks that carry out a connection's requests which wait for the device: as many as there are at once, used
/// again and again, since to make a task costs several times as much as to resume one. Confined to the connection's
/// loop.
final class RequestCarriers {
  /// A request on its way.
  struct Load {
    let command: Command
    let request: Request
    let payload: Payload
    let start: Nanoseconds
  }

  private var idle: [UnsafeContinuation<Load?, Never>] = []
  private var hasEnded = false

  /// Gives the load to a task that has nothing to do; false if there is none, and one must be made for it.
  func handOver(_ load: Load) -> Bool {
    guard let carrier = idle.popLast() else { return false }
    carrier.resume(returning: load)
    return true
  }

  /// What a task that is done carries next; nil once there is nothing more to come.
  func next() async -> Load? {
    await withUnsafeContinuation { continuation in
      if hasEnded { continuation.resume(returning: nil) } else { idle.append(continuation) }
    }
  }

  /// No further load comes: idle tasks end.
  func end() {
    hasEnded = true
    let carriers = idle
    idle = []
    for carrier in carriers { carrier.resume(returning: nil) }
  }
}
