import Bytes
import Model

/// Why a text isn't a JSON value that this API accepts.
struct JSONFault: Error, Equatable {
  enum Kind: Equatable {
    /// Not JSON (RFC 8259), or beyond a bound.
    case syntax
    /// JSON, but an object names a member twice: readers disagree about which one counts.
    case duplicateMember
  }

  var kind: Kind
  /// Of the place, in bytes from 0.
  var offset: Int
  /// That was being read.
  var field: Field
  var detail: String
}

/// Reads one JSON text strictly (RFC 8259): nothing may follow it, strings are valid UTF-8, no member stands twice.
///
/// A whole number that fits is an `integer`, and so is one written as 1.0 or 1e3.
///
/// It is hand-written because Foundation's decoder takes one of two members of the same name, bounds no nesting that is
/// our own, and doesn't tell where a fault is.
struct JSONParser {
  /// Arrays and objects within each other. The deepest body of this API has four.
  static let maximumDepth = 32

  private let bytes: [UInt8]
  private var position = 0
  private var field = Field()

  private init(_ bytes: [UInt8]) {
    self.bytes = bytes
  }

  static func parse(_ bytes: [UInt8]) throws(JSONFault) -> JSONValue {
    var parser = JSONParser(bytes)
    parser.skipSpace()
    let value = try parser.value(depth: 0)
    parser.skipSpace()
    guard parser.position == bytes.count else { throw parser.fault("something follows the value") }
    return value
  }

  // MARK: Values

  private mutating func value(depth: Int) throws(JSONFault) -> JSONValue {
    guard let byte = peek else { throw fault("a value is missing") }
    switch byte {
    case UInt8(ascii: "{"): return try object(depth: depth + 1)
    case UInt8(ascii: "["): return try array(depth: depth + 1)
    case UInt8(ascii: "\""): return .string(try string())
    case UInt8(ascii: "t"): return try word("true", .bool(true))
    case UInt8(ascii: "f"): return try word("false", .bool(false))
    case UInt8(ascii: "n"): return try word("null", .null)
    case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return try number()
    default: throw fault("a value is missing")
    }
  }

  private mutating func object(depth: Int) throws(JSONFault) -> JSONValue {
    try enter(depth)
    var members: [String: JSONValue] = [:]
    skipSpace()
    if take("}") { return .object(members) }
    while true {
      skipSpace()
      let start = position
      guard peek == UInt8(ascii: "\"") else { throw fault("a member's name is missing") }
      let name = try string()
      field.enter(.member(name))
      guard members[name] == nil else {
        throw JSONFault(
          kind: .duplicateMember, offset: start, field: field, detail: "this member stands twice in its object")
      }
      skipSpace()
      guard take(":") else { throw fault("a ':' is missing") }
      skipSpace()
      members[name] = try value(depth: depth)
      field.leave()
      skipSpace()
      if take("}") { return .object(members) }
      guard take(",") else { throw fault("a ',' or '}' is missing") }
    }
  }

  private mutating func array(depth: Int) throws(JSONFault) -> JSONValue {
    try enter(depth)
    var items: [JSONValue] = []
    skipSpace()
    if take("]") { return .array(items) }
    while true {
      skipSpace()
      field.enter(.item(items.count))
      items.append(try value(depth: depth))
      field.leave()
      skipSpace()
      if take("]") { return .array(items) }
      guard take(",") else { throw fault("a ',' or ']' is missing") }
    }
  }

  private mutating func enter(_ depth: Int) throws(JSONFault) {
    guard depth <= Self.maximumDepth else { throw fault("values are nested more than \(Self.maximumDepth) deep") }
    position += 1
  }

  private mutating func word(_ text: StaticString, _ value: JSONValue) throws(JSONFault) -> JSONValue {
    for index in 0..<text.utf8CodeUnitCount {
      guard peek == text.utf8Start[index] else { throw fault("a value is missing") }
      position += 1
    }
    return value
  }

  // MARK: Numbers

  private mutating func number() throws(JSONFault) -> JSONValue {
    let start = position
    _ = take("-")
    let first = peek
    try digits()
    if first == UInt8(ascii: "0"), position > start + (bytes[start] == UInt8(ascii: "-") ? 2 : 1) {
      throw fault("a number starts with a needless 0")
    }
    var isWhole = true
    if take(".") {
      isWhole = false
      try digits()
    }
    if take("e") || take("E") {
      isWhole = false
      if !take("+") { _ = take("-") }
      try digits()
    }
    let text = String(decoding: bytes[start..<position], as: UTF8.self)
    if isWhole, let value = Int64(text) { return .integer(value) }
    guard let value = Double(text), value.isFinite else { throw fault("a number is too large") }
    if let whole = Int64(exactly: value), value.magnitude < 0x1p53 { return .integer(whole) }
    return .number(value)
  }

  private mutating func digits() throws(JSONFault) {
    let start = position
    while let byte = peek, byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") { position += 1 }
    guard position > start else { throw fault("a digit is missing") }
  }

  // MARK: Strings

  private mutating func string() throws(JSONFault) -> String {
    position += 1
    let start = position
    var text: [UInt8] = []
    while let byte = peek {
      switch byte {
      case UInt8(ascii: "\""):
        position += 1
        guard let string = String(validating: text, as: UTF8.self) else {
          throw JSONFault(kind: .syntax, offset: start, field: field, detail: "a string isn't valid UTF-8")
        }
        return string
      case UInt8(ascii: "\\"):
        position += 1
        try escape(into: &text)
      case 0..<0x20:
        throw fault("a string holds a control character; write it as \\u00…")
      default:
        text.append(byte)
        position += 1
      }
    }
    throw fault("a string doesn't end")
  }

  private mutating func escape(into text: inout [UInt8]) throws(JSONFault) {
    guard let byte = peek else { throw fault("a string doesn't end") }
    position += 1
    switch byte {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): text.append(byte)
    case UInt8(ascii: "b"): text.append(0x08)
    case UInt8(ascii: "f"): text.append(0x0C)
    case UInt8(ascii: "n"): text.append(0x0A)
    case UInt8(ascii: "r"): text.append(0x0D)
    case UInt8(ascii: "t"): text.append(0x09)
    case UInt8(ascii: "u"): text += Array(String(try escapedScalar()).utf8)
    default: throw fault("a string holds an unknown escape")
    }
  }

  /// What follows `\u`; beyond the basic plane it is a pair of surrogates.
  private mutating func escapedScalar() throws(JSONFault) -> Character {
    let first = try codeUnit()
    if let scalar = Unicode.Scalar(first) { return Character(scalar) }
    guard UTF16.isLeadSurrogate(first), take("\\"), take("u") else { throw fault("a surrogate stands alone") }
    let second = try codeUnit()
    guard UTF16.isTrailSurrogate(second) else { throw fault("a surrogate stands alone") }
    let value = 0x10000 + ((UInt32(first) - 0xD800) << 10) + (UInt32(second) - 0xDC00)
    guard let scalar = Unicode.Scalar(value) else { throw fault("a surrogate stands alone") }
    return Character(scalar)
  }

  private mutating func codeUnit() throws(JSONFault) -> UInt16 {
    var value: UInt16 = 0
    for _ in 0..<4 {
      guard let byte = peek, let digit = Hexadecimal.value(of: byte) else {
        throw fault("four hexadecimal digits must follow \\u")
      }
      value = value << 4 | UInt16(digit)
      position += 1
    }
    return value
  }

  // MARK: Bytes

  private var peek: UInt8? { position < bytes.count ? bytes[position] : nil }

  private mutating func take(_ character: Unicode.Scalar) -> Bool {
    guard peek == UInt8(ascii: character) else { return false }
    position += 1
    return true
  }

  private mutating func skipSpace() {
    while let byte = peek, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { position += 1 }
  }

  private func fault(_ detail: String) -> JSONFault {
    JSONFault(kind: .syntax, offset: position, field: field, detail: detail)
  }
}
