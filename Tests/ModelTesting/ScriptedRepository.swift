import Model

/// What a scripted engine stored under one path.
struct ScriptedRepository: Sendable {
  let id: RepositoryID
  private var images: [ImageID: ImageRecord] = [:]
  private var chains: [ChainID: Chain] = [:]
  private var backups: [BackupID: Backup] = [:]

  init(id: RepositoryID) { self.id = id }

  /// As image.json: only an image that has a folder is recorded.
  mutating func record(_ image: ImageRecord) {
    if images[image.id] != nil { images[image.id] = image }
  }

  mutating func store(_ order: BackupOrder, _ receipt: BackupReceipt) {
    images[order.image.id] = order.image
    chains[order.newChain] = Chain(
      id: order.newChain, image: order.image.id, imageName: order.image.name, repository: id,
      createdAt: receipt.pointInTime)
    backups[order.backup] = Backup(
      id: order.backup, image: order.image.id, repository: id, chain: order.newChain, group: order.group,
      groupImages: order.groupImages, kind: order.kind == .copy ? .copy : .full,
      requestedKind: order.kind, reason: order.kind.words + (order.mixture.map { "; it is of a mixture: \($0)" } ?? ""),
      tracker: order.kind == .copy ? nil : order.tracker, checkpoint: receipt.checkpoint,
      granularity: receipt.granularity, state: .complete,
      compression: order.compression, consistency: receipt.consistency, isMixture: order.mixture != nil,
      pointInTime: receipt.pointInTime,
      createdAt: receipt.pointInTime, finishedAt: receipt.finishedAt, virtualSize: receipt.virtualSize,
      dirtyBytes: receipt.dirtyBytes, storedSize: receipt.storedSize, merkleRoot: receipt.merkleRoot)
  }

  mutating func delete(_ backup: BackupID) {
    guard let chain = backups.removeValue(forKey: backup)?.chain else { return }
    if !backups.values.contains(where: { $0.chain == chain }) { chains[chain] = nil }
  }

  func scan(unreadable: Set<BackupID>, findings: [String]) -> RepositoryScan {
    RepositoryScan(
      images: images.values.sorted { $0.id < $1.id },
      chains: chains.values.map(currentName).sorted { $0.id < $1.id },
      backups: backups.values.filter { !unreadable.contains($0.id) }.sorted { $0.id < $1.id },
      unreadable: unreadable, findings: findings)
  }

  private func currentName(_ chain: Chain) -> Chain {
    var chain = chain
    if let name = images[chain.image]?.name { chain.imageName = name }
    return chain
  }
}
