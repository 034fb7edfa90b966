import Model

/// A chain as its repository holds it: what an increment may be built on.
package struct StoredChain: Hashable, Sendable {
  /// A backup that is complete, with all that it builds on.
  package struct Link: Hashable, Sendable {
    package var manifest: Manifest
    /// Files that a reader of it opens for its data: 1 for a full.
    package var depth: Int

    package init(manifest: Manifest, depth: Int) {
      self.manifest = manifest
      self.depth = depth
    }
  }

  package let id: ChainID
  /// In order of sequence.
  package private(set) var links: [Link] = []
  /// Backups that lack a file, or something below them.
  package private(set) var brokenCount = 0
  /// The place of the next backup; beyond ``Manifest/sequences`` if the chain is full.
  package let nextSequence: Int

  /// - Parameters:
  ///   - manifests: those that can be read, of backups whose files are there.
  ///   - brokenCount: how many there are beside them.
  ///   - lastSequence: the highest place that anything has in the chain.
  package init(_ id: ChainID, _ manifests: [Manifest], brokenCount: Int, lastSequence: Int) {
    self.id = id
    self.brokenCount = brokenCount
    nextSequence = lastSequence + 1
    var known: [BackupID: Link] = [:]
    for manifest in manifests.sorted(by: { ($0.sequence, $0.backup) < ($1.sequence, $1.backup) }) {
      let below = manifest.parent.map { known[$0.backup] }
      guard let depth = Self.depth(of: manifest, over: below) else {
        self.brokenCount += 1
        continue
      }
      let link = Link(manifest: manifest, depth: depth)
      known[manifest.backup] = link
      links.append(link)
    }
  }

  /// Nil if what it builds on isn't there as it was.
  private static func depth(of manifest: Manifest, over below: Link??) -> Int? {
    guard let below else { return manifest.kind == .full ? 1 : nil }
    guard let below, below.manifest.merkleRoot == manifest.parent?.merkleRoot else { return nil }
    return below.depth + 1
  }

  /// The backup, and all that it builds on.
  package func path(to backup: BackupID) -> [BackupID] {
    let parents = Dictionary(uniqueKeysWithValues: links.map { ($0.manifest.backup, $0.manifest.parent?.backup) })
    var (path, next) = ([BackupID](), Optional(backup))
    while let backup = next, let parent = parents[backup], path.count < links.count {
      path.append(backup)
      next = parent
    }
    return path
  }
}
