import Bytes
import Foundation
import Model

/// What can stand in an answer of this API.
protocol JSONWritable {
  func write(to json: inout JSONWriter)
}

/// Writes JSON in the order in which it is told, `null`s included.
///
/// It is hand-written because Foundation's encoder keeps no order of members and leaves out what is nil.
struct JSONWriter {
  private(set) var bytes: [UInt8] = []

  init() {}

  /// The JSON text of one value.
  static func text(of value: some JSONWritable) -> [UInt8] {
    var json = JSONWriter()
    json.bytes.reserveCapacity(1024)
    value.write(to: &json)
    return json.bytes
  }

  mutating func object(_ members: (inout JSONWriter) -> Void) {
    bytes.append(UInt8(ascii: "{"))
    members(&self)
    bytes.append(UInt8(ascii: "}"))
  }

  mutating func member(_ name: String, _ value: some JSONWritable) {
    separate()
    string(name)
    bytes.append(UInt8(ascii: ":"))
    value.write(to: &self)
  }

  /// A member that is absent instead of `null`.
  mutating func member(_ name: String, ifPresent value: (some JSONWritable)?) {
    if let value { member(name, value) }
  }

  mutating func array(_ items: some Sequence<some JSONWritable>) {
    bytes.append(UInt8(ascii: "["))
    for item in items {
      separate()
      item.write(to: &self)
    }
    bytes.append(UInt8(ascii: "]"))
  }

  mutating func raw(_ text: String) {
    bytes += text.utf8
  }

  mutating func string(_ text: some StringProtocol) {
    bytes.append(UInt8(ascii: "\""))
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: "\""), UInt8(ascii: "\\"): bytes += [UInt8(ascii: "\\"), byte]
      case 0x0A: bytes += [UInt8(ascii: "\\"), UInt8(ascii: "n")]
      case 0x0D: bytes += [UInt8(ascii: "\\"), UInt8(ascii: "r")]
      case 0x09: bytes += [UInt8(ascii: "\\"), UInt8(ascii: "t")]
      case 0..<0x20: raw("\\u00" + Hexadecimal.text(of: byte))
      default: bytes.append(byte)
      }
    }
    bytes.append(UInt8(ascii: "\""))
  }

  /// A comma, unless this is the first in its array or object.
  private mutating func separate() {
    guard let last = bytes.last, last != UInt8(ascii: "{"), last != UInt8(ascii: "[") else { return }
    bytes.append(UInt8(ascii: ","))
  }
}

// MARK: Plain values

extension String: JSONWritable {
  func write(to json: inout JSONWriter) { json.string(self) }
}

extension Bool: JSONWritable {
  func write(to json: inout JSONWriter) { json.raw(self ? "true" : "false") }
}

extension Int: JSONWritable {
  func write(to json: inout JSONWriter) { json.raw(String(self)) }
}

extension Int64: JSONWritable {
  func write(to json: inout JSONWriter) { json.raw(String(self)) }
}

extension UInt64: JSONWritable {
  func write(to json: inout JSONWriter) { json.raw(String(self)) }
}

extension Double: JSONWritable {
  /// JSON has no word for what isn't finite.
  func write(to json: inout JSONWriter) { json.raw(isFinite ? description : "null") }
}

extension Date: JSONWritable {
  func write(to json: inout JSONWriter) { json.string(Timestamp.text(of: self)) }
}

extension Optional: JSONWritable where Wrapped: JSONWritable {
  func write(to json: inout JSONWriter) {
    if let self { self.write(to: &json) } else { json.raw("null") }
  }
}

extension Array: JSONWritable where Element: JSONWritable {
  func write(to json: inout JSONWriter) { json.array(self) }
}

extension Dictionary: JSONWritable where Key == String, Value: JSONWritable {
  /// In order of the keys, so that equal values are equal texts.
  func write(to json: inout JSONWriter) {
    let members = sorted { $0.key < $1.key }
    json.object { json in
      for member in members { json.member(member.key, member.value) }
    }
  }
}

extension JSONValue: JSONWritable {
  func write(to json: inout JSONWriter) {
    switch self {
    case .null: json.raw("null")
    case .bool(let value): value.write(to: &json)
    case .integer(let value): value.write(to: &json)
    case .number(let value): json.raw(value.isFinite ? value.description : "null")
    case .string(let value): value.write(to: &json)
    case .array(let value): value.write(to: &json)
    case .object(let value): value.write(to: &json)
    }
  }
}

// MARK: The domain's values

extension JSONWritable where Self: RawRepresentable, RawValue == String {
  func write(to json: inout JSONWriter) { json.string(rawValue) }
}

extension Identifier: JSONWritable {
  func write(to json: inout JSONWriter) { json.string(description) }
}

extension ULID: JSONWritable {
  func write(to json: inout JSONWriter) { json.string(description) }
}

extension TrackerName: JSONWritable {
  func write(to json: inout JSONWriter) { json.string(text) }
}

extension ResourceName: JSONWritable {
  func write(to json: inout JSONWriter) { json.string(text) }
}

extension DiskFormat: JSONWritable {}
extension ManagedBy: JSONWritable {}
extension Image.State: JSONWritable {}
extension BitmapRecord.State: JSONWritable {}
extension CacheMode: JSONWritable {}
extension Attachment.Cause: JSONWritable {}
extension Export.State: JSONWritable {}
extension Fleecing.State: JSONWritable {}
extension Fleecing.Release: JSONWritable {}
extension Fleecing.Access: JSONWritable {}
extension Fleecing.Outcome: JSONWritable {}
extension ExportTLS: JSONWritable {}
extension Repository.Kind: JSONWritable {}
extension Repository.State: JSONWritable {}
extension BackupKind: JSONWritable {}
extension RequestedBackupKind: JSONWritable {}
extension TrackingFallback: JSONWritable {}
extension FallbackReason: JSONWritable {}
extension Backup.State: JSONWritable {}
extension Compression: JSONWritable {}
extension Consistency: JSONWritable {}
extension VerifyLevel: JSONWritable {}
extension JobKind: JSONWritable {}
extension JobState: JSONWritable {}
extension JobLogEntry.Level: JSONWritable {}
extension Event.Kind: JSONWritable {}
extension ProblemCode: JSONWritable {}
