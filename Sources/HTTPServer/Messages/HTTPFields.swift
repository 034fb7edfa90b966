/// Header fields in their order, repeats kept; names compare without regard to ASCII case (RFC 9110, 5.1).
package struct HTTPFields: Sendable, ExpressibleByDictionaryLiteral {
  /// Every field in the order in which it was received or appended.
  package private(set) var all: [(name: String, value: String)]

  package init() {
    all = []
  }

  package init(dictionaryLiteral elements: (String, String)...) {
    all = elements.map { (name: $0.0, value: $0.1) }
  }

  /// The first value of that name; setting replaces every one of that name, `nil` removes them.
  package subscript(name: String) -> String? {
    get { all.first { Self.same($0.name, name) }?.value }
    set {
      all.removeAll { Self.same($0.name, name) }
      if let newValue { all.append((name: name, value: newValue)) }
    }
  }

  /// All the values of that name, in order.
  package func values(_ name: String) -> [String] {
    all.compactMap { Self.same($0.name, name) ? $0.value : nil }
  }

  /// Adds a field and keeps those of the same name.
  package mutating func append(_ name: String, _ value: String) {
    all.append((name: name, value: value))
  }

  private static func same(_ left: String, _ right: String) -> Bool {
    let left = left.utf8, right = right.utf8
    guard left.count == right.count else { return false }
    return zip(left, right).allSatisfy { lowercase($0) == lowercase($1) }
  }

  private static func lowercase(_ byte: UInt8) -> UInt8 {
    byte >= UInt8(ascii: "A") && byte <= UInt8(ascii: "Z") ? byte | 0x20 : byte
  }
}
