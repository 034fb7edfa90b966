/// A name a person gave: `[a-z0-9][a-z0-9._-]{0,62}`, never shaped like a ULID, unique per kind of resource.
package struct ResourceName: Hashable, Sendable {
  package let text: String

  /// nil if `text` breaks a rule; ``rule`` says which rules there are.
  package init?(_ text: String) {
    let bytes = Array(text.utf8)
    guard let first = bytes.first, bytes.count <= Self.maximumLength, Self.isAlphanumeric(first),
      bytes.allSatisfy({ Self.isAlphanumeric($0) || $0 == 0x2E || $0 == 0x5F || $0 == 0x2D }),
      ULID(text) == nil
    else { return nil }
    self.text = text
  }

  package static let maximumLength = 63
  package static let rule =
    "a name has 1 to 63 of a-z, 0-9, '.', '_' and '-', starts with a letter or digit, and isn't shaped like an id"

  private static func isAlphanumeric(_ byte: UInt8) -> Bool {
    byte >= 0x61 && byte <= 0x7A || byte >= 0x30 && byte <= 0x39
  }
}

extension ResourceName: CustomStringConvertible {
  package var description: String { text }
}

extension ResourceName: Comparable {
  package static func < (left: Self, right: Self) -> Bool { left.text < right.text }
}

extension ResourceName: Codable {
  package init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    guard let name = ResourceName(try container.decode(String.self)) else {
      throw DecodingError.dataCorruptedError(in: container, debugDescription: Self.rule)
    }
    self = name
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(text)
  }
}

/// How a request points at a resource: by id, or by name.
package enum Reference<Entity>: Hashable, Sendable {
  case id(Identifier<Entity>)
  case name(ResourceName)

  /// nil if `text` is neither a ULID nor a name.
  package init?(_ text: String) {
    if let id = Identifier<Entity>(text) {
      self = .id(id)
    } else if let name = ResourceName(text) {
      self = .name(name)
    } else {
      return nil
    }
  }
}

extension Reference: CustomStringConvertible {
  package var description: String {
    switch self {
    case .id(let id): id.description
    case .name(let name): name.text
    }
  }
}
