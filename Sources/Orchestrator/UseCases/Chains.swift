import Model

/// A chain with what is derived from its backups.
package struct ChainView: Hashable, Sendable {
  package var chain: Chain
  package var imageName: ResourceName
  package var repositoryName: ResourceName
  /// In order of their place in the chain.
  package var backups: [BackupID]
  /// Bytes that they take in the repository.
  package var storedSize: UInt64

  /// The views of all these, in their order: the catalog is asked as often for many as for one.
  static func all(of chains: [Chain], in catalog: any CatalogReading) throws -> [ChainView] {
    let repositories = try catalog.repositories(Set(chains.map(\.repository)))
    let backups = try catalog.backups(of: Set(chains.map(\.id)))
    return try chains.map { chain in
      guard let repository = repositories[chain.repository] else {
        throw DomainError(
          .internalError, "the catalog holds chain \(chain.id) without its repository", remedy: "rescan the repository")
      }
      let backups = backups[chain.id] ?? []
      return ChainView(
        chain: chain, imageName: chain.imageName, repositoryName: repository.name,
        backups: backups.sorted { ($0.sequence, $0.id) < ($1.sequence, $1.id) }.map(\.id),
        storedSize: backups.reduce(0) { $0 + $1.storedSize })
    }
  }
}

extension BackupService {
  package func chain(_ id: ChainID) throws -> ChainView {
    try transactions.read { catalog in
      guard let chain = try catalog.chain(id) else { throw DomainError(.notFound, "there is no chain \(id)") }
      return try ChainView.all(of: [chain], in: catalog)[0]
    }
  }

  /// An image or repository that isn't registered is found by its id only.
  package func chains(
    image: Reference<Image>? = nil, repository: Reference<Repository>? = nil, _ page: PageRequest
  ) throws -> Page<ChainView> {
    try transactions.read { catalog in
      let imageID: ImageID? =
        switch image {
        case nil: nil
        case .id(let id): id
        case .name: try image.map { try catalog.find($0).id }
        }
      let repositoryID: RepositoryID? =
        switch repository {
        case nil: nil
        case .id(let id): id
        case .name: try repository.map { try catalog.find($0).id }
        }
      return try catalog.chains(image: imageID, repository: repositoryID, page)
        .mapItems { try ChainView.all(of: $0, in: catalog) }
    }
  }
}
