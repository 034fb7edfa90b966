import Foundation
import Model
import Testing

@testable import RESTAPI

@Suite struct JSONParserTests {
  private func parse(_ text: String) throws -> JSONValue { try JSONParser.parse(Array(text.utf8)) }

  private static let readable: [(String, JSONValue)] = [
    ("null", JSONValue.null), (" true ", true), ("false", false), ("0", 0), ("-0", 0), ("-12", -12),
    ("9223372036854775807", .integer(.max)), ("-9223372036854775808", .integer(.min)), ("1.0", 1), ("1e3", 1000),
    ("1.5", .number(1.5)), ("9223372036854775808", .number(0x1p63)), (#""""#, ""),
    (#""a\"\\\/\b\f\n\r\t""#, "a\"\\/\u{8}\u{c}\n\r\t"),
    (#""\u00e9\ud83d\ude00\u0000""#, "é😀\0"), ("[]", []), ("[1, [2]]", [1, [2]]), ("{}", [:]),
    (#"{"a":{"b":[null]}}"#, ["a": ["b": [nil]]]),
  ]

  @Test(arguments: readable)
  func whatTheGrammarAllowsIsRead(text: String, value: JSONValue) throws {
    #expect(try parse(text) == value)
  }

  @Test(arguments: [
    "", " ", "nul", "True", "01", "-", "1.", ".5", "1e", "+1", "0x1", "NaN", "1e999", "\"", "\"a", #""\x""#, #""\u12""#,
    #""\ud800""#, #""\ud800\u0041""#, #""\udc00""#, "\"\n\"", "[", "[1", "[1,]", "[,1]", "[1 2]", "{", #"{"a"}"#,
    #"{"a":}"#, #"{"a":1,}"#, "{a:1}", #"{'a':1}"#, "1 2", "{} {}", "[] x", "// c\n1", "\u{feff}1",
  ])
  func whatTheGrammarForbidsIsRefused(text: String) {
    #expect(throws: JSONFault.self) { try parse(text) }
  }

  @Test func bytesThatAreNotUTF8AreRefused() {
    for bytes: [UInt8] in [[0x22, 0xFF, 0x22], [0x22, 0xC0, 0x80, 0x22], [0x22, 0xED, 0xA0, 0x80, 0x22]] {
      #expect(throws: JSONFault.self) { try JSONParser.parse(bytes) }
    }
  }

  @Test func aMemberThatStandsTwiceIsRefusedWithItsPlace() {
    let fault = #expect(throws: JSONFault.self) { try parse(#"{"a":[{"b/~":1,"b\/~":2}]}"#) }
    #expect(fault?.kind == .duplicateMember)
    #expect(fault?.field.pointer == "/a/0/b~1~0")
    #expect(fault?.offset == 15)
  }

  @Test func nestingIsBounded() throws {
    let depth = JSONParser.maximumDepth
    _ = try parse(String(repeating: "[", count: depth) + String(repeating: "]", count: depth))
    #expect(throws: JSONFault.self) {
      try parse(String(repeating: "[", count: depth + 1) + String(repeating: "]", count: depth + 1))
    }
    #expect(throws: JSONFault.self) { try parse(String(repeating: #"{"a":"#, count: 100_000)) }
  }

  @Test func whateverIsReadFoundationReadsTheSame() throws {
    var random = SeededBytes(seed: UInt64.random(in: 0...UInt64.max))
    let seeds = [#"{"name":"vm1","n":[1,2.5,-3e2,true,null],"s":"\u00e9\n","o":{"k":{}}}"#, #"[{"a":"b"},[],"x",0]"#]
    var accepted = 0
    for _ in 0..<3000 {
      var bytes = Array(seeds[random.below(seeds.count)].utf8)
      for _ in 0..<random.below(3) { bytes[random.below(bytes.count)] = UInt8(random.below(128)) }
      guard let value = try? JSONParser.parse(bytes) else { continue }
      accepted += 1
      let theirs = try JSONDecoder().decode(JSONValue.self, from: Data(bytes))
      #expect(value == theirs, "seed \(random.seed): \(String(decoding: bytes, as: UTF8.self))")
    }
    #expect(accepted > 500)
  }

  @Test func whatIsWrittenIsReadBack() throws {
    let value: JSONValue = [
      "text": "quote \" back \\ line \n tab \t bell \u{7} é😀", "numbers": [0, -1, .number(0.1), .integer(.max)],
      "nothing": nil, "flags": [true, false], "nested": ["empty": [:], "list": []],
    ]
    #expect(try JSONParser.parse(JSONWriter.text(of: value)) == value)
  }

  @Test func membersAreWrittenInOrderAndNullsToo() {
    var json = JSONWriter()
    json.object { json in
      json.member("b", 1)
      json.member("a", String?.none)
      json.member("c", [Int]())
    }
    #expect(String(decoding: json.bytes, as: UTF8.self) == #"{"b":1,"a":null,"c":[]}"#)
  }
}

/// A small generator (SplitMix64), so that a failing run can be told by its seed.
struct SeededBytes {
  let seed: UInt64
  private var state: UInt64

  init(seed: UInt64) {
    self.seed = seed
    state = seed
  }

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
    return z ^ z >> 31
  }

  mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }
}
