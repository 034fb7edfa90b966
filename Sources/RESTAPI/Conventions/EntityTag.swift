import Model

/// Versions of what a GET answers (RFC 9110, 8.8.3): `"<revision>-<digest>"`, or `"<digest>"` where nothing has a
/// revision.
///
/// The digest is of the bytes of the answer, so that the tag changes with everything that is shown (a dependent, the
/// progress of a job). `If-Match` looks only at the revision: what a client may change by the request.
enum EntityTag {
  static func of(_ bytes: [UInt8], revision: Int?) -> String {
    let digest = String(fingerprint(bytes), radix: 16)
    return if let revision { "\"\(revision)-\(digest)\"" } else { "\"\(digest)\"" }
  }

  /// The revision that stands in a tag of ours; nil in any other tag.
  static func revision(in tag: some StringProtocol) -> Int? {
    guard tag.hasPrefix("\""), let dash = tag.firstIndex(of: "-") else { return nil }
    return Int(tag[tag.index(after: tag.startIndex)..<dash])
  }

  /// 64-bit FNV-1a. Tags protect nothing, they only have to differ.
  private static func fingerprint(_ bytes: [UInt8]) -> UInt64 {
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    for byte in bytes { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
    return hash
  }
}

/// The value of `If-Match` or `If-None-Match`.
enum EntityTagList: Equatable {
  case any
  /// In their text form, quotes and `W/` included.
  case tags([String])

  /// More tags than this in one header are refused.
  static let maximumCount = 32

  /// nil without the header; throws `malformedRequest` if it breaks the grammar.
  init?(_ values: [String], header: String) throws(DomainError) {
    guard !values.isEmpty else { return nil }
    let text = values.joined(separator: ",")
    if text.trimmed == "*" {
      self = .any
      return
    }
    var tags: [String] = []
    var rest = Substring(text)
    while true {
      rest = rest.drop { $0 == " " || $0 == "\t" || $0 == "," }
      if rest.isEmpty { break }
      let isWeak = rest.hasPrefix("W/")
      let opaque = isWeak ? rest.dropFirst(2) : rest
      guard opaque.first == "\"", let end = opaque.dropFirst().firstIndex(of: "\""), tags.count < Self.maximumCount
      else {
        throw DomainError(
          .malformedRequest, "'\(header)' must be '*' or at most \(Self.maximumCount) quoted entity tags")
      }
      tags.append(String(rest[...end]))
      rest = rest[opaque.index(after: end)...]
    }
    guard !tags.isEmpty else { throw DomainError(.malformedRequest, "'\(header)' is empty") }
    self = .tags(tags)
  }

  /// By the weak comparison, as `If-None-Match` asks for.
  func matchesWeakly(_ tag: String) -> Bool {
    switch self {
    case .any: true
    case .tags(let tags): tags.contains { ($0.hasPrefix("W/") ? String($0.dropFirst(2)) : $0) == tag }
    }
  }

  /// The revisions that strong tags of ours name.
  var revisions: [Int] {
    switch self {
    case .any: []
    case .tags(let tags): tags.compactMap { EntityTag.revision(in: $0) }
    }
  }
}

extension StringProtocol {
  /// Without the spaces and tabs at either end.
  var trimmed: SubSequence {
    let isBlank: (Character) -> Bool = { $0 == " " || $0 == "\t" }
    let head = drop(while: isBlank)
    guard let last = head.lastIndex(where: { !isBlank($0) }) else { return head }
    return head[...last]
  }
}
