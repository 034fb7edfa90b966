import Model

extension Field {
  /// The field as a JSON pointer (RFC 6901): "" is the whole body, "/target/path" a member's member.
  var pointer: String { steps.map { "/" + Self.token($0) }.joined() }

  private static func token(_ step: Step) -> String {
    switch step {
    case .item(let index): return String(index)
    case .member(let name):
      guard name.utf8.contains(where: { $0 == UInt8(ascii: "~") || $0 == UInt8(ascii: "/") }) else { return name }
      return name.unicodeScalars.map { $0 == "~" ? "~0" : $0 == "/" ? "~1" : String($0) }.joined()
    }
  }
}
