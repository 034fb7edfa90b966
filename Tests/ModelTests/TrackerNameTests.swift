import Foundation
import Model
import Testing

struct TrackerNameTests {
  @Test(arguments: ["a", "0", "second-tool", "a_b-c", String(repeating: "x", count: 32), "default-2"])
  func whatKeepsToTheRuleIsAName(_ text: String) throws {
    #expect(TrackerName(text)?.text == text)
    let stored = try JSONEncoder().encode([try #require(TrackerName(text))])
    #expect(try JSONDecoder().decode([TrackerName].self, from: stored).map(\.text) == [text])
  }

  /// A dot would part the name of the bitmap, and the reserved ones mean something else.
  @Test(arguments: [
    "", "-a", "_a", "A", "a.b", "a b", "ä", "a\u{0}", String(repeating: "x", count: 33), "witness", "default",
  ])
  func whatDoesNotIsNone(_ text: String) {
    #expect(TrackerName(text) == nil)
    #expect(throws: DecodingError.self) {
      try JSONDecoder().decode([TrackerName].self, from: JSONEncoder().encode([text]))
    }
  }

  @Test func standardTrackerIsTheRepositorysID() {
    let id = RepositoryID()
    let name = TrackerName.standard(of: id)
    #expect(name.text == id.description.lowercased() && name.isStandard && TrackerName(name.text) == name)
    #expect(TrackerName("second-tool")?.isStandard == false)
  }
}
