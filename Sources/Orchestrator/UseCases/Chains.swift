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

/// A chain with its backups, one by one.
package struct ChainDetailView: Hashable, Sendable {
  package var chain: ChainView
  /// In order of sequence; the first ``maximumPointCount`` of them.
  package var points: [Backup]

  package var isTruncated: Bool { points.count < chain.backups.count }

  /// More than a page of a list holds aren't shown at once.
  package static let maximumPointCount = PageRequest.maximumLimit

  fileprivate init(_ chain: Chain, in catalog: any CatalogReading) throws {
    self.chain = try ChainView.all(of: [chain], in: catalog)[0]
    points = try Array(catalog.backupsInOrder(of: chain.id).prefix(Self.maximumPointCount))
  }
}

extension CatalogReading {
  func find(_ id: ChainID) throws -> Chain {
    guard let chain = try chain(id) else {
      throw DomainError(
        .notFound, "there is no chain \(id)", remedy: "list the chains; a rescan finds those of a repository")
    }
    return chain
  }

  /// In order of sequence.
  func backupsInOrder(of chain: ChainID) throws -> [Backup] {
    try backups(of: [chain])[chain, default: []].sorted { ($0.sequence, $0.id) < ($1.sequence, $1.id) }
  }
}

extension BackupService {
  package func chain(_ id: ChainID) throws -> ChainDetailView {
    try transactions.read { try ChainDetailView($0.find(id), in: $0) }
  }

  /// A job that verifies each stored backup of the chain, in order of sequence. Throws `backupNotComplete` where it has
  /// none.
  package func verifyChain(
    _ id: ChainID, level: VerifyLevel, _ conditions: ChangeConditions<Job> = ChangeConditions()
  ) async throws -> Answer<Job> {
    try await submit(conditions) { view in
      let chain = try view.catalog.find(id)
      let backups = try view.catalog.backupsInOrder(of: id).filter(\.isStored)
      guard !backups.isEmpty else {
        throw DomainError(
          .backupNotComplete, "chain \(id) has no backup that could be verified",
          remedy: "wait for the first one to be complete")
      }
      return JobDraft(
        request: .verifyChain(chain: id, level: level),
        links: JobLinks(image: chain.image, repository: chain.repository, chains: [id]),
        plan: Plan(
          action: "verify-chain",
          steps: backups.prefix(ChainDetailView.maximumPointCount).map {
            "verify backup \($0.id) at level \(level.rawValue)"
          },
          warnings: backups.count > ChainDetailView.maximumPointCount
            ? ["\(backups.count) backups would be verified: the first of them are told"] : [],
          resource: .chainVerification(of: id, level)),
        legs: backups.map(\.virtualSize))
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
