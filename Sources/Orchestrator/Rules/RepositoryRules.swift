import Model

// What a repository must be for what is to be done with it.

extension Repository {
  /// The repository must be there, and to be written.
  func requireWritable() throws(DomainError) {
    guard state == .ready else {
      throw DomainError(
        .repositoryUnavailable, "repository '\(name)' can't be opened at \(path)",
        remedy: "see that its storage is mounted and its folder is there, then ask again")
    }
    guard !isReadOnly else {
      throw DomainError(
        .repositoryReadOnly, "the storage of repository '\(name)' at \(path) takes no writes",
        remedy: "mount it to be written, and give the server's user access to it, then ask again")
    }
  }
}

extension CatalogReading {
  func requireFree(_ draft: RepositoryDraft) throws {
    if let other = try repository(named: draft.name) {
      throw DomainError(
        .nameTaken, "repository \(other.id) has the name '\(draft.name)' already", remedy: "choose another name")
    }
    let all = try allPages { try repositories($0) }
    if let other = all.first(where: { comparablePath($0.path) == comparablePath(draft.path) }) {
      throw DomainError(
        .nameTaken, "\(draft.path) is registered already, as repository '\(other.name)'",
        remedy: "use that repository")
    }
    // As their spelling tells; what links hide, the engine finds.
    if let other = all.first(where: { lies($0.path, within: draft.path) || lies(draft.path, within: $0.path) }) {
      throw DomainError(
        .repositoryMismatch, "\(draft.path) and repository '\(other.name)', \(other.path), lie one within the other",
        remedy: "choose a folder outside of it")
    }
  }
}
