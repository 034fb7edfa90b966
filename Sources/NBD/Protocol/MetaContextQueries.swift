/// Which metadata contexts a client's queries name (proto.md, “Metadata querying”).
///
/// A whole name matches itself. For LIST, no query at all matches everything, and `base:`, `qemu:` and
/// `qemu:dirty-bitmap:` match all that begin so; for SET they select nothing. What is unknown is passed over.
struct MetaContextQueries {
  private let queries: [String]
  private let isSelection: Bool

  init(_ queries: [String], isSelection: Bool) {
    self.queries = queries
    self.isSelection = isSelection
  }

  /// Those of `names` that match, each once, in the order of `names`.
  func matches(in names: [String]) -> [String] {
    if queries.isEmpty { return isSelection ? [] : names }
    let exact = Set(queries)
    let prefixes = isSelection ? [] : queries.filter { $0.hasSuffix(":") }
    return names.filter { name in exact.contains(name) || prefixes.contains { name.hasPrefix($0) } }
  }
}
