/// The place of a value in a JSON text (RFC 6901): "" is the whole, "/target/path" a member's member.
struct JSONPointer: Equatable, CustomStringConvertible {
  private var tokens: [String]

  init(_ tokens: [String] = []) {
    self.tokens = tokens
  }

  mutating func enter(_ token: String) { tokens.append(token) }
  mutating func leave() { tokens.removeLast() }

  func appending(_ token: String) -> JSONPointer { JSONPointer(tokens + [token]) }

  var description: String { tokens.map { "/" + Self.escaped($0) }.joined() }

  private static func escaped(_ token: String) -> String {
    guard token.utf8.contains(where: { $0 == UInt8(ascii: "~") || $0 == UInt8(ascii: "/") }) else { return token }
    return token.unicodeScalars.map { $0 == "~" ? "~0" : $0 == "/" ? "~1" : String($0) }.joined()
  }
}
