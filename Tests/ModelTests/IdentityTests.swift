import Foundation
import Model
import ModelTesting
import Testing

struct IdentityTests {
  @Test func aULIDIsWrittenAsTheSpecificationDoes() throws {
    // From github.com/ulid/spec: 1469918176385 ms is 01ARYZ6S41.
    let ulid = ULID(at: Date(timeIntervalSince1970: 1_469_918_176.385))
    #expect(ulid.description.hasPrefix("01ARYZ6S41"))
    #expect(ULID(high: .max, low: .max).description == "7ZZZZZZZZZZZZZZZZZZZZZZZZZ")
    #expect(ULID(high: 0, low: 1).description == "00000000000000000000000001")
    #expect(ULID("7ZZZZZZZZZZZZZZZZZZZZZZZZZ") == ULID(high: .max, low: .max))
  }

  @Test func aULIDIsReadInEitherCaseAndNothingElseIs() throws {
    for _ in 0..<100 {
      let ulid = ULID()
      #expect(ULID(ulid.description) == ulid)
      #expect(ULID(ulid.description.lowercased()) == ulid)
    }
    for wrong in [
      "", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "01ARYZ6S41TSV4RRFFQ69G5FA", "01ARYZ6S41TSV4RRFFQ69G5FAVX",
      "01ARYZ6S41TSV4RRFFQ69G5FAU", "01ARYZ6S41TSV4RRFFQ69G5FA-", "01ARYZ6S41TSV4RRFFQ69G5FÄ",
    ] {
      #expect(ULID(wrong) == nil, "\(wrong)")
    }
  }

  @Test func identifiersSortByTheirTimeAsTextToo() {
    let ulids = (0..<50).map { ULID(at: Date(timeIntervalSince1970: 1_700_000_000 + Double($0))) }
    #expect(ulids == ulids.shuffled().sorted())
    #expect(ulids.map(\.description) == ulids.map(\.description).sorted())
  }

  @Test(arguments: ["a", "0", "vm-1.disk_0", String(repeating: "x", count: 63)])
  func aNameThatKeepsTheRuleIsTaken(_ text: String) { #expect(ResourceName(text)?.text == text) }

  @Test(arguments: [
    "", "A", "-a", ".a", "_a", "a b", "ä", "a/b", "a\u{0}", "aé", String(repeating: "x", count: 64),
    "01aryz6s41tsv4rrffq69g5fab",
  ])
  func aNameThatBreaksARuleIsRefused(_ text: String) {
    #expect(ResourceName(text) == nil)
    #expect(throws: DecodingError.self) {
      try JSONDecoder().decode([ResourceName].self, from: JSONEncoder().encode([text]))
    }
  }

  @Test func aReferenceIsAnIdOrAName() {
    let id = ImageID()
    #expect(Reference<Image>(id.description) == .id(id))
    #expect(Reference<Image>("vm1") == .name("vm1"))
    #expect(Reference<Image>("VM 1") == nil)
  }

  @Test func aJSONValueStaysAsItIs() throws {
    let text = #"{"a":[1,-2,0.5,true,false,null,"x"],"b":{"c":9007199254740993}}"#
    let value = try JSONDecoder().decode(JSONValue.self, from: Data(text.utf8))
    #expect(value["a"] == [1, -2, .number(0.5), true, false, nil, "x"])
    #expect(value["b"]?["c"] == 9_007_199_254_740_993)
    #expect(value["c"] == nil)
    let encoder = JSONEncoder()
    encoder.outputFormatting = .sortedKeys
    #expect(String(decoding: try encoder.encode(value), as: UTF8.self) == text)
  }

  @Test(arguments: [
    ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
      "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    ),
    (String(repeating: "a", count: 1000), "41edece42d63e8d9bf515a9ba6932e1c20cbc9f5a5d134645adb5db1b9737ea3"),
  ])
  func theHashIsThatOfTheStandard(_ message: String, _ digest: String) {
    #expect(SHA256.digest(Array(message.utf8)).hexadecimal == digest)
  }
}
