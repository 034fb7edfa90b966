/// How far a connection to a server has come, for the judgement whether the server still answers. Confined to the
/// device's loop.
final class LinkProgress: @unchecked Sendable {
  // Safe to hand over: confined to the device's loop, like the link.

  /// How often something came in.
  var receiptCount: UInt64 = 0
}

/// The server stopped answering, and the connection was given up.
struct ServerSilence: Error, CustomStringConvertible {
  let duration: Duration
  /// No task waits for the server any longer; otherwise only those that were told to stop.
  let isForAll: Bool

  var description: String { "the server didn't answer for \(duration)" }
}
