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

  init(_ chain: Chain, in catalog: any CatalogReading) throws {
    self.chain = chain
    imageName = chain.imageName
    repositoryName = try find(chain.repository, in: catalog).name
    let backups = try allPages { try catalog.backups(BackupFilter(chain: chain.id), $0) }
    self.backups = backups.sorted { ($0.sequence, $0.id) < ($1.sequence, $1.id) }.map(\.id)
    storedSize = backups.reduce(0) { $0 + $1.storedSize }
  }
}

extension BackupService {
  package func chain(_ id: ChainID) throws -> ChainView {
    try ledger.read { catalog in
      guard let chain = try catalog.chain(id) else { throw DomainError(.notFound, "there is no chain \(id)") }
      return try ChainView(chain, in: catalog)
    }
  }

  /// An image or repository that isn't registered is found by its id only.
  package func chains(
    image: Reference<Image>? = nil, repository: Reference<Repository>? = nil, _ page: PageRequest
  ) throws -> Page<ChainView> {
    try ledger.read { catalog in
      let imageID: ImageID? =
        switch image {
        case nil: nil
        case .id(let id): id
        case .name: try image.map { try find($0, in: catalog).id }
        }
      let repositoryID: RepositoryID? =
        switch repository {
        case nil: nil
        case .id(let id): id
        case .name: try repository.map { try find($0, in: catalog).id }
        }
      return try catalog.chains(image: imageID, repository: repositoryID, page).map { try ChainView($0, in: catalog) }
    }
  }
}
