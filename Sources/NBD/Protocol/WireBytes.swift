/// Reads the fields of one message that is in memory as a whole. Never reads past its end.
struct WireReader {
  private var rest: ArraySlice<UInt8>

  init(_ bytes: [UInt8]) { rest = bytes[...] }

  var remainingByteCount: Int { rest.count }

  /// - Parameter field: names the field in the error.
  mutating func integer<Value: FixedWidthInteger>(
    _ type: Value.Type, _ field: String
  ) throws(NBDProtocolError) -> Value {
    let count = MemoryLayout<Value>.size
    guard rest.count >= count else { throw .truncated(field) }
    var value: Value = 0
    for byte in rest.prefix(count) { value = value << 8 | Value(byte) }
    rest = rest.dropFirst(count)
    return value
  }

  mutating func integer<Value: FixedWidthInteger>(_ field: String) throws(NBDProtocolError) -> Value {
    try integer(Value.self, field)
  }

  /// A string of `byteCount` bytes: valid UTF-8 without NUL, of at most ``WireLimits/stringByteCount``.
  mutating func string(byteCount: some BinaryInteger, _ field: String) throws(NBDProtocolError) -> String {
    guard byteCount <= WireLimits.stringByteCount else {
      throw .tooLong(field, byteCount: UInt64(byteCount), limit: UInt64(WireLimits.stringByteCount))
    }
    guard byteCount <= rest.count else { throw .truncated(field) }
    let bytes = rest.prefix(Int(byteCount))
    guard !bytes.contains(0), let string = String(validating: bytes, as: UTF8.self) else {
      throw .violation("\(field) is not valid UTF-8 without NUL")
    }
    rest = rest.dropFirst(Int(byteCount))
    return string
  }

  /// A 32-bit length and a string of that length.
  mutating func countedString(_ field: String) throws(NBDProtocolError) -> String {
    let byteCount = try integer(UInt32.self, field)
    return try string(byteCount: byteCount, field)
  }

  /// - Throws: if bytes are left over.
  func finish(_ message: String) throws(NBDProtocolError) {
    guard rest.isEmpty else { throw .violation("\(message) has \(rest.count) bytes too many") }
  }
}

extension [UInt8] {
  mutating func append(text: String) { append(contentsOf: text.utf8) }
}
