import Bytes
import Foundation
import Testing

@Suite struct HexadecimalTests {
  @Test func bytesBecomeTwoDigitsEachAndComeBack() {
    let all = (0...255).map { UInt8($0) }
    let text = Hexadecimal.text(of: all)
    #expect(text == all.map { String(format: "%02x", $0) }.joined())
    #expect(Hexadecimal.bytes(of: text) == all)
    #expect(Hexadecimal.bytes(of: text.uppercased()) == all)
    #expect(Hexadecimal.bytes(of: "") == [])
    for bad in ["0", "0g", "g0", "abc", " 0", "+1", "é0"] { #expect(Hexadecimal.bytes(of: bad) == nil, "\(bad)") }
  }

  @Test func numbersKeepTheirLeadingZeroes() {
    #expect(Hexadecimal.text(of: UInt64(0x1f)) == "000000000000001f")
    #expect(Hexadecimal.text(of: UInt8(0)) == "00")
    #expect(Hexadecimal.text(of: UInt64.max) == "ffffffffffffffff")
  }
}

@Suite struct PercentEncodingTests {
  @Test func decodesOnceAndStrictly() {
    #expect(PercentEncoding.decode("a%2Fb%00%c3%A4%252F") == Array("a/b\0ä%2F".utf8))
    #expect(PercentEncoding.decode("a+b") == Array("a+b".utf8))
    #expect(PercentEncoding.decode("a+b", plusIsSpace: true) == Array("a b".utf8))
    for bad in ["%", "%1", "%g0", "%0g", "a%"] { #expect(PercentEncoding.decode(Substring(bad)) == nil) }
  }

  @Test func textHasNoNULAndIsUTF8() {
    #expect(PercentEncoding.decodedText("%c3%A4+") == "ä+")
    for bad in ["%00", "a%00b", "%c3", "%ff", "%"] { #expect(PercentEncoding.decodedText(Substring(bad)) == nil) }
  }

  @Test func allThatIsNotUnreservedIsEncoded() {
    // RFC 3986, section 2.3.
    let unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
    for number in 1...127 {
      let character = String(Unicode.Scalar(UInt8(number)))
      let expected = unreserved.contains(character) ? character : String(format: "%%%02X", number)
      #expect(PercentEncoding.encode(segment: character) == expected)
      #expect(PercentEncoding.encode(path: character) == (character == "/" ? "/" : expected))
    }
    #expect(PercentEncoding.encode(path: "/ä b/%") == "/%C3%A4%20b/%25")
  }

  @Test func whatIsEncodedComesBack() {
    for text in ["", "/run/cobweb/a b.sock", "ünïcödé/%2F", "a\u{1}\"'<>"] {
      #expect(PercentEncoding.decodedText(Substring(PercentEncoding.encode(path: text))) == text)
      #expect(PercentEncoding.decodedText(Substring(PercentEncoding.encode(segment: text))) == text)
    }
  }
}

@Suite struct BigEndianTests {
  @Test func numbersLieMostSignificantByteFirst() {
    var bytes: [UInt8] = [9]
    bytes.append(bigEndian: UInt32(0x0102_0304))
    bytes.append(bigEndian: UInt16(0x0506))
    #expect(bytes == [9, 1, 2, 3, 4, 5, 6])
    #expect(bytes.span.bytes.bigEndian(UInt32.self, at: 1) == 0x0102_0304)
    #expect(bytes.span.bytes.bigEndian(UInt16.self, at: 5) == 0x0506)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    raw.store(bigEndian: UInt16(0xABCD), at: 2)
    #expect(bytes == [9, 1, 0xAB, 0xCD, 4, 5, 6])
  }
}
