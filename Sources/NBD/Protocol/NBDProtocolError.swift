/// The other side broke the protocol, or refused what was asked of it.
package enum NBDProtocolError: Error, Hashable, Sendable {
  /// What arrived doesn't begin as a message of this phase does; the text names the message.
  case badMagic(String)
  /// The client sets handshake flags that were not offered.
  case unknownClientFlags(UInt32)
  /// A length above the limit for it.
  case tooLong(String, byteCount: UInt64, limit: UInt64)
  /// A message that ends before its own fields do; the text names the field.
  case truncated(String)
  /// A message that contradicts what was negotiated, or itself; the text says how.
  case violation(String)
  /// The server refused an option; `reply` is its error type, the text is for people.
  case refused(option: UInt32, reply: UInt32, message: String)
  /// The server can't do what this client insists on; the text names it.
  case unsupported(String)
}

extension NBDProtocolError: CustomStringConvertible {
  package var description: String {
    switch self {
    case .badMagic(let what): "not an NBD \(what)"
    case .unknownClientFlags(let flags): "unknown handshake flags 0x\(String(flags, radix: 16))"
    case .tooLong(let what, let byteCount, let limit): "\(what) of \(byteCount) bytes; at most \(limit) are taken"
    case .truncated(let what): "the message ends inside \(what)"
    case .violation(let text): text
    case .refused(let option, let reply, let message):
      "the server refused \(OptionCode(rawValue: option)) with \(OptionReplyCode(rawValue: reply))"
        + (message.isEmpty ? "" : ": \(message)")
    case .unsupported(let what): "the server doesn't offer \(what)"
    }
  }
}
