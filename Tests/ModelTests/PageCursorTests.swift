import Model
import ModelTesting
import Testing

struct PageCursorTests {
  @Test func aCursorNamesItsListAndIsSafeInAURL() throws {
    let key = String(repeating: "ÿ?>", count: 9)
    let cursor = PageCursor.text(.jobs, after: key)
    #expect(PageCursor.key(in: cursor, of: .jobs) == key)
    for list in PagedList.allCases where list != .jobs { #expect(PageCursor.key(in: cursor, of: list) == nil) }
    #expect(
      cursor.utf8.allSatisfy { byte in
        (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte) || byte == 0x2D
          || byte == 0x5F
      })
  }

  @Test func aKeyOfAnotherKindIsRefused() throws {
    let word = PageRequest(after: PageCursor.text(.images, after: "vm1"))
    #expect(throws: DomainError.self) { try word.id(Image.self, in: .images) }
    #expect(throws: DomainError.self) { try word.number(in: .images) }
    let id = ImageID()
    #expect(try PageRequest(after: PageCursor.text(.images, after: id)).id(Image.self, in: .images) == id)
    #expect(try PageRequest(after: PageCursor.text(.jobLog, after: 12)).number(in: .jobLog) == 12)
    #expect(try PageRequest().id(Image.self, in: .images) == nil)
  }
}
