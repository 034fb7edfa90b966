import Foundation
import Model

/// The backups of one moment, and whether each of its images has one.
package struct GroupView: Hashable, Sendable {
  package struct Member: Hashable, Sendable {
    package var image: ImageID
    /// The last known one; nil where neither the image nor a backup of it is left to tell.
    package var imageName: ResourceName?
  }

  package var id: ULID
  package var pointInTime: Date
  /// Every image that a backup of the group names, or is of.
  package var images: [Member]
  /// In order of id.
  package var backups: [BackupID]
  /// Whether every image has a backup of this group in state complete.
  package var isComplete: Bool

  /// - Parameters:
  ///   - backups: at least one.
  ///   - isWhole: whether these are all that the catalog has of the group.
  fileprivate init(_ id: ULID, _ backups: [Backup], isWhole: Bool, in catalog: any CatalogReading) throws {
    self.id = id
    // The row of a backup that stored nothing has the time at which it was asked for.
    let stored = backups.filter { $0.merkleRoot != nil }
    pointInTime = (stored.isEmpty ? backups : stored).map(\.pointInTime).min() ?? id.date
    self.backups = backups.map(\.id)
    let named = backups.flatMap(\.groupImages) + backups.map(\.image)
    var known: Set<ImageID> = []
    let ids = named.filter { known.insert($0).inserted }
    let complete = Set(backups.lazy.filter { $0.state == .complete }.map(\.image))
    isComplete = isWhole && known.isSubset(of: complete)
    let registered = try catalog.images(known)
    let chains = try catalog.chains(Set(backups.map(\.chain)))
    let chained = Dictionary(chains.values.map { ($0.image, $0.imageName) }) { first, _ in first }
    images = ids.map { Member(image: $0, imageName: registered[$0]?.name ?? chained[$0]) }
  }
}

extension BackupService {
  /// Reads one page of backups: more than that no request makes. A group that has more is never called complete.
  package func group(_ id: ULID) throws -> GroupView {
    try transactions.read { catalog in
      let page = try catalog.backups(ofGroup: id, PageRequest(limit: PageRequest.maximumLimit))
      guard !page.items.isEmpty else { throw DomainError.noGroup(id) }
      return try GroupView(id, page.items, isWhole: page.next == nil, in: catalog)
    }
  }
}
