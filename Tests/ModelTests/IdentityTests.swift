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
}
