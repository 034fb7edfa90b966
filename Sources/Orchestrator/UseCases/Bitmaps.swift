import Foundation
import Model

/// One thing to be done with a bitmap of an image.
package struct BitmapDraft: Hashable, Sendable {
  package enum Change: Hashable, Sendable {
    case add(granularity: UInt64, isRecording: Bool, isPersistent: Bool)
    case remove, clear, enable, disable
    case merge([Source])
    case unite(BitmapImport)
  }

  package struct Source: Hashable, Sendable {
    /// Nil: the same.
    package var image: Reference<Image>?
    package var bitmap: BitmapName

    package init(image: Reference<Image>? = nil, bitmap: BitmapName) {
      self.image = image
      self.bitmap = bitmap
    }
  }

  package var image: Reference<Image>
  package var bitmap: BitmapName
  package var change: Change

  package init(image: Reference<Image>, bitmap: BitmapName, _ change: Change) {
    self.image = image
    self.bitmap = bitmap
    self.change = change
  }

  /// Where a bitmap has none stated: what most clusters, and the grains of backups, have.
  package static let standardGranularity: UInt64 = 65536
}

/// A bitmap after a change of it.
package struct ChangedBitmap: Hashable, Sendable {
  package var image: ImageID
  package var imageName: ResourceName
  package var name: BitmapName
  /// Nil if it is no longer there.
  package var record: BitmapRecord?
}

/// Dirty bitmaps. They are what their image's file, or the engine that has it open, says: the catalog has none of them.
extension BackupService {
  /// In the order of their names' bytes.
  package func bitmaps(of reference: Reference<Image>, _ page: PageRequest) async throws -> Page<BitmapRecord> {
    let image = BitmapImage(try image(reference))
    let limit = page.boundedLimit
    let records = try await engine.bitmaps(of: image, after: try page.bitmapName(), limit: limit + 1)
    let isMore = records.count > limit
    let items = Array(records.prefix(limit))
    return Page(
      items: items, next: isMore ? items.last.map { PageCursor.text(.bitmaps, after: $0.name.percentEncoded) } : nil)
  }

  package func bitmap(_ name: BitmapName, of reference: Reference<Image>) async throws -> BitmapRecord {
    try await engine.bitmap(name, of: BitmapImage(try image(reference)))
  }

  /// A page of what a bitmap calls dirty. `generation` is the one of the page before: throws `extentsChanged` if the
  /// bitmap may have changed since.
  package func dirtyExtents(
    of name: BitmapName, of reference: Reference<Image>, _ query: StoredExtentQuery, generation: String?
  ) async throws -> DirtyExtentPage {
    let image = try image(reference)
    let page = try await engine.extents(of: name, of: BitmapImage(image), query)
    guard generation == nil || generation == page.generation else {
      throw DomainError(
        .extentsChanged, "bitmap \(name.quoted) of image '\(image.name)' changed since the page before",
        remedy: "start again from the first page; one that is disabled keeps still")
    }
    return page
  }

  /// The bits of a bitmap, for another program or another image.
  package func bits(of name: BitmapName, of reference: Reference<Image>) async throws -> BitmapBits {
    try await engine.bits(of: name, of: BitmapImage(try image(reference)))
  }

  /// Changes one bitmap.
  package func changeBitmap(
    _ draft: BitmapDraft, _ conditions: ChangeConditions<ChangedBitmap>
  ) async throws -> Answer<ChangedBitmap> {
    try await change([draft], conditions, isList: false) { $0[0] }
  }

  /// Changes several bitmaps, of one or several images: all at one moment, or none.
  package func changeBitmaps(
    _ drafts: [BitmapDraft], _ conditions: ChangeConditions<[ChangedBitmap]>
  ) async throws -> Answer<[ChangedBitmap]> {
    try await change(drafts, conditions, isList: true) { $0 }
  }

  /// - Parameter isList: the drafts are a list of the request, whose items faults name.
  private func change<Value: Sendable>(
    _ drafts: [BitmapDraft], _ conditions: ChangeConditions<Value>, isList: Bool,
    _ value: @Sendable @escaping ([ChangedBitmap]) -> Value
  ) async throws -> Answer<Value> {
    try await answering(conditions) {
      var order = try transactions.read { catalog in try BitmapOrder(drafts, in: catalog) }
      order.isRehearsal = conditions.dryRun
      let records: [BitmapRecord?]
      do {
        records = try await engine.change(order)
      } catch var error as DomainError {
        if !isList { error.faults = [] }
        throw error
      }
      let changed = zip(order.actions, records).map { action, record in
        ChangedBitmap(image: action.image.id, imageName: action.image.name, name: action.bitmap, record: record)
      }
      let actions = order.actions
      return try await change(conditions) { _ in
        Plan(action: "change-bitmaps", steps: actions.map(\.step), resource: .bitmaps(changed))
      } apply: { transaction in
        for (action, changed) in zip(actions, changed) { try transaction.announce(action, changed) }
        return value(changed)
      }
    }
  }
}

extension PageRequest {
  /// The name behind which the page starts; nil at the start.
  fileprivate func bitmapName() throws(DomainError) -> BitmapName? {
    guard let after else { return nil }
    guard let key = PageCursor.key(in: after, of: .bitmaps), let name = BitmapName(percentEncoded: key) else {
      throw Self.foreignCursor(after)
    }
    return name
  }
}

extension BitmapOrder {
  fileprivate init(_ drafts: [BitmapDraft], in catalog: any CatalogReading) throws {
    self.init(
      try drafts.map { draft in
        let image = BitmapImage(try catalog.find(draft.image))
        return Action(image: image, bitmap: draft.bitmap, try Change(draft.change, of: image, in: catalog))
      })
  }
}

extension BitmapOrder.Change {
  fileprivate init(_ change: BitmapDraft.Change, of image: BitmapImage, in catalog: any CatalogReading) throws {
    self =
      switch change {
      case .add(let granularity, let isRecording, let isPersistent):
        .add(granularity: granularity, isRecording: isRecording, isPersistent: isPersistent)
      case .remove: .remove
      case .clear: .clear
      case .enable: .enable
      case .disable: .disable
      case .merge(let sources):
        .merge(
          try sources.map { source in
            BitmapOrder.Source(
              image: try source.image.map { BitmapImage(try catalog.find($0)) } ?? image, bitmap: source.bitmap)
          })
      case .unite(let bits): .unite(bits)
      }
  }

  fileprivate var event: Event.Kind {
    switch self {
    case .add: .bitmapCreated
    case .remove: .bitmapDeleted
    case .clear, .enable, .disable, .merge, .unite: .bitmapChanged
    }
  }
}

extension BitmapOrder.Action {
  /// In words.
  fileprivate var step: String {
    let what = "bitmap \(bitmap.quoted) of image '\(image.name)'"
    switch change {
    case .add: return "add \(what)"
    case .remove: return "remove \(what)"
    case .clear: return "clear \(what)"
    case .enable: return "enable \(what)"
    case .disable: return "disable \(what)"
    case .merge(let sources):
      let names = sources.map { "\($0.bitmap.quoted) of image '\($0.image.name)'" }.joined(separator: ", ")
      return "merge \(names) into \(what)"
    case .unite: return "add the bits that were sent to \(what)"
    }
  }
}

extension CatalogTransaction {
  fileprivate func announce(_ action: BitmapOrder.Action, _ changed: ChangedBitmap) throws {
    try announce(action.change.event, changed.name, changed.record?.state, of: action.image.id)
  }
}
