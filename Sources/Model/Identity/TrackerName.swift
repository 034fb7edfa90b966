/// The name of a tracker: of a line of backups of one image, each of which knows what changed since the one before.
///
/// Each consumer may have a line of its own, so that none breaks another's chains. A line is a chain, or several in a
/// row, in one repository. The standard tracker of a repository is named by its id in lower case; a request calls it
/// ``standardAlias``.
package struct TrackerName: Hashable, Sendable {
  package let text: String

  /// nil if `text` breaks a rule; ``rule`` says which rules there are.
  package init?(_ text: String) {
    let bytes = Array(text.utf8)
    guard let first = bytes.first, bytes.count <= Self.maximumLength, Self.isAlphanumeric(first),
      bytes.allSatisfy({ Self.isAlphanumeric($0) || $0 == 0x5F || $0 == 0x2D }),
      text != Self.witness, text != Self.standardAlias
    else { return nil }
    self.text = text
  }

  private init(standardOf repository: RepositoryID) { text = repository.description.lowercased() }

  /// The tracker of all backups in a repository that name no other.
  package static func standard(of repository: RepositoryID) -> TrackerName { TrackerName(standardOf: repository) }

  /// Whether it is the standard tracker of some repository.
  package var isStandard: Bool { ULID(text.uppercased()) != nil }

  package static let standardAlias = "default"
  /// Reserved: the bitmap of that name belongs to no line.
  private static let witness = "witness"
  package static let maximumLength = 32
  package static let rule =
    "a tracker's name has 1 to 32 of a-z, 0-9, '_' and '-', starts with a letter or digit, and isn't 'witness'; "
    + "'default' is the repository's own"

  private static func isAlphanumeric(_ byte: UInt8) -> Bool {
    byte >= 0x61 && byte <= 0x7A || byte >= 0x30 && byte <= 0x39
  }
}

extension TrackerName: CustomStringConvertible {
  package var description: String { text }
}

extension TrackerName: Codable {
  package init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    guard let name = TrackerName(try container.decode(String.self)) else {
      throw DecodingError.dataCorruptedError(in: container, debugDescription: Self.rule)
    }
    self = name
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(text)
  }
}
