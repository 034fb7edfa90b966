import Bytes

/// The format of a zone's file: TZif of version 1 to 4 (RFC 8536, RFC 9636). Of files with leap seconds none is taken,
/// because `UnixTime` doesn't count them.
enum ZoneFile {
  /// Larger than any zone's.
  static let maximumByteCount = 1 << 20

  struct Fault: Error, Hashable {
    let reason: String

    init(_ reason: String) { self.reason = reason }
  }

  static func rules(_ bytes: [UInt8], name: String) throws(Fault) -> ZoneRules {
    let header = try Header(bytes, at: 0)
    guard header.version > 0 else {
      return try Block(bytes, at: Header.byteCount, header, wide: false).rules(name: name, rule: nil)
    }
    // What version 1 could say is repeated in 64 bits.
    let second = Header.byteCount + Block.byteCount(header, wide: false)
    let wide = try Header(bytes, at: second)
    let start = second + Header.byteCount
    let rule = try footer(bytes, at: start + Block.byteCount(wide, wide: true))
    return try Block(bytes, at: start, wide, wide: true).rules(name: name, rule: rule)
  }

  /// Between two newlines; empty where nothing is known about the time after the table.
  private static func footer(_ bytes: [UInt8], at offset: Int) throws(Fault) -> YearlyRule? {
    let newline = UInt8(ascii: "\n")
    guard offset < bytes.count, bytes[offset] == newline,
      let end = bytes[(offset + 1)...].firstIndex(of: newline)
    else { throw Fault("its footer is missing") }
    guard end > offset + 1 else { return nil }
    let text = String(decoding: bytes[offset + 1..<end], as: UTF8.self)
    guard let rule = YearlyRule(text) else { throw Fault("its footer '\(text.prefix(64))' isn't a POSIX TZ") }
    return rule
  }

  private struct Header {
    static let byteCount = 44

    let version: UInt8
    let utcIndicators: Int
    let standardIndicators: Int
    let leapSeconds: Int
    let transitions: Int
    let types: Int
    let characters: Int

    init(_ bytes: [UInt8], at offset: Int) throws(Fault) {
      guard offset + Self.byteCount <= bytes.count, bytes[offset..<offset + 4].elementsEqual("TZif".utf8) else {
        throw Fault(offset == 0 ? "it isn't a TZif file" : "it is cut off")
      }
      // Digits in ASCII but for the first version; later versions are read as the latest known one.
      let sign = bytes[offset + 4]
      guard sign == 0 || sign >= UInt8(ascii: "2") else { throw Fault("its version is unknown") }
      version = sign
      let span = bytes.span.bytes
      let counts = (0..<6).map { Int(span.bigEndian(UInt32.self, at: offset + 20 + 4 * $0)) }
      (utcIndicators, standardIndicators, leapSeconds) = (counts[0], counts[1], counts[2])
      (transitions, types, characters) = (counts[3], counts[4], counts[5])
    }
  }

  private struct Block {
    private let transitions: [Int]
    /// Seconds ahead of UTC after each transition.
    private let offsets: [Int]
    private let firstOffset: Int

    /// Half of what a time may be; the earliest that tz writes is −2^59.
    private static let latest = 1 << 60

    static func byteCount(_ header: Header, wide: Bool) -> Int {
      let time = wide ? 8 : 4
      return header.transitions * (time + 1) + header.types * 6 + header.characters + header.leapSeconds * (time + 4)
        + header.standardIndicators + header.utcIndicators
    }

    init(_ bytes: [UInt8], at start: Int, _ header: Header, wide: Bool) throws(Fault) {
      guard start + Self.byteCount(header, wide: wide) <= bytes.count else { throw Fault("it is cut off") }
      guard header.leapSeconds == 0 else { throw Fault("it counts leap seconds; take the zone without 'right/'") }
      guard header.types > 0 else { throw Fault("it has no offset") }
      let span = bytes.span.bytes
      let indices = start + header.transitions * (wide ? 8 : 4)
      let types = indices + header.transitions
      let known = (0..<header.types).map { Int(span.bigEndian(Int32.self, at: types + 6 * $0)) }
      guard known.allSatisfy({ abs($0) < ZoneRules.largestOffset }) else { throw Fault("an offset is out of bounds") }
      var (times, offsets): ([Int], [Int]) = ([], [])
      for index in 0..<header.transitions {
        let time =
          wide
          ? Int(span.bigEndian(Int64.self, at: start + 8 * index))
          : Int(span.bigEndian(Int32.self, at: start + 4 * index))
        let type = Int(bytes[indices + index])
        guard type < known.count else { throw Fault("a transition has no offset") }
        guard abs(time / 2) < Self.latest else { throw Fault("a transition is out of bounds") }
        guard times.last.map({ $0 < time }) ?? true else { throw Fault("its transitions aren't in order") }
        times.append(time)
        offsets.append(known[type])
      }
      transitions = times
      self.offsets = offsets
      firstOffset = known[0]
    }

    /// - Parameter rule: for the time after the last transition.
    func rules(name: String, rule: YearlyRule?) -> ZoneRules {
      var (times, changed): ([Int], [Int]) = ([], [])
      // Where only the abbreviation changes, the clock doesn't. The last one stays: the rule holds from there on.
      for (index, time) in transitions.enumerated() {
        let before = changed.last ?? firstOffset
        if offsets[index] != before || index == transitions.count - 1 {
          times.append(time)
          changed.append(offsets[index])
        }
      }
      return ZoneRules(name: name, transitions: times, offsets: changed, firstOffset: firstOffset, rule: rule)
    }
  }
}
