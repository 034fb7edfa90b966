/// Who asks for something: it rides along in every transaction.
package struct Principal: Hashable, Sendable {
  /// What names it in records of what was asked.
  package var name: String
  /// What it may do.
  package var verbs: Set<Verb>

  package init(name: String, verbs: Set<Verb>) {
    self.name = name
    self.verbs = verbs
  }

  /// Every client that reaches the API, as long as there are no tokens.
  package static let anonymous = Principal(name: "anonymous", verbs: Set(Verb.allCases))
  /// The program itself: its jobs, its start, its reconciliation.
  package static let server = Principal(name: "cobweb", verbs: Set(Verb.allCases))
}

/// What a caller may be allowed to do. Each route of the API needs one.
package enum Verb: String, Sendable, CaseIterable {
  case read, backup, verify, restore
  /// Restoring over what is there.
  case overwrite
  case delete, prune, policy, configure, fleece, export, tokens, audit, metrics
}
