/// What a person probably meant who misspelt a name.
package enum NearestName {
  /// The candidate that the fewest changes make of `name`: letters put in, left out, or changed. Nil if all need more
  /// changes than a third of the name's letters, and at least one; the first of those that are equally near.
  /// - Parameter form: what of a candidate is compared.
  package static func of(
    _ name: String, among candidates: some Sequence<String>, comparing form: (String) -> String = { $0 }
  ) -> String? {
    let wanted = Array(name.utf8.prefix(longest))
    var limit = max(1, wanted.count / 3)
    var nearest: String?
    for candidate in candidates {
      let distance = distance(wanted, Array(form(candidate).utf8.prefix(longest)))
      if distance < limit || (distance == limit && nearest == nil) { (nearest, limit) = (candidate, distance) }
    }
    return nearest
  }

  /// Bytes of a name that are looked at.
  private static let longest = 128

  /// Levenshtein's, row by row.
  private static func distance(_ one: [UInt8], _ other: [UInt8]) -> Int {
    var row = Array(0...other.count)
    for (line, byte) in one.enumerated() {
      var diagonal = row[0]
      row[0] = line + 1
      for column in other.indices {
        let replaced = diagonal + (other[column] == byte ? 0 : 1)
        diagonal = row[column + 1]
        row[column + 1] = min(replaced, diagonal + 1, row[column] + 1)
      }
    }
    return row[other.count]
  }
}
