import Foundation

/// A place where backups are kept.
package struct Repository: Hashable, Sendable, Codable {
  package enum Kind: String, Sendable, Codable, CaseIterable { case directory }

  package enum State: String, Sendable, Codable, CaseIterable {
    case ready
    /// Its folder can't be reached, or isn't the repository it was.
    case unavailable
  }

  package let id: RepositoryID
  package var name: ResourceName
  package var kind: Kind
  /// The absolute path of its folder.
  package var path: String
  package var state: State
  /// Whether its storage took no writes the last time: its backups can be verified, restored and exported.
  package var isReadOnly: Bool
  package var managedBy: ManagedBy
  package var createdAt: Date
  package var revision: Int

  package init(
    id: RepositoryID = RepositoryID(), name: ResourceName, kind: Kind = .directory, path: String,
    state: State = .ready, isReadOnly: Bool = false, managedBy: ManagedBy = .api, createdAt: Date, revision: Int = 1
  ) {
    self.id = id
    self.name = name
    self.kind = kind
    self.path = path
    self.state = state
    self.isReadOnly = isReadOnly
    self.managedBy = managedBy
    self.createdAt = createdAt
    self.revision = revision
  }

  package var location: RepositoryLocation { RepositoryLocation(id: id, path: path) }
}

/// What the engine needs to open a repository: the folder, and the id it must find in there.
package struct RepositoryLocation: Hashable, Sendable, Codable {
  package var id: RepositoryID
  package var path: String

  package init(id: RepositoryID, path: String) {
    self.id = id
    self.path = path
  }
}
