/// How every implementation of ``BackupCatalog`` says that a rule of the store was broken.
package enum CatalogRefusal {
  /// A row that is changed, deleted or referred to isn't there.
  package static func missing<Entity>(_ kind: String, _ id: Identifier<Entity>) -> DomainError {
    DomainError(.notFound, "there is no \(kind) \(id)")
  }

  /// A row with that key is there already.
  package static func exists(_ what: String) -> DomainError {
    DomainError(.preconditionFailed, "\(what) exists already")
  }

  package static func nameTaken<Entity>(
    _ name: ResourceName, _ kind: String, by holder: Identifier<Entity>
  ) -> DomainError {
    DomainError(
      .nameTaken, "the name '\(name)' belongs to \(kind) \(holder)", remedy: "choose another name, or rename that one")
  }

  /// Another change touched the row since it was read.
  package static func stale<Entity>(
    _ kind: String, _ id: Identifier<Entity>, stored: Int, given: Int
  ) -> DomainError {
    DomainError(
      .preconditionFailed, "\(kind) \(id) was changed in the meantime: its revision is \(stored), not \(given)",
      remedy: "read it again and repeat the change")
  }

  package static func chainNotEmpty(_ chain: ChainID) -> DomainError {
    DomainError(.backupHasDependents, "chain \(chain) still has backups", remedy: "delete its backups first")
  }

  /// The same guarded request was answered between the look-up of its key and now.
  package static func keyAnswered(_ key: IdempotencyKey) -> DomainError {
    DomainError(
      .idempotencyKeyInFlight, "a request with the key '\(key.key)' got its answer in the meantime",
      remedy: "send the request again to get that answer")
  }
}
