import Bitmaps
import BlockCore
import Foundation
import Model
import Repositories

/// What a backup will be: decided at its moment, under the image's lease, from what the repository holds then.
///
/// Places in a chain are told by sequence, never by time. A new chain's id is above that of the newest one, whatever the
/// clock says.
struct BackupDecision {
  var order: BackupOrder
  /// The newest that a full began.
  let chain: StoredChain?
  /// What the image's own bitmap tells.
  let tracker: StoredTracker.Finding
  /// Bytes of the image.
  let byteCount: UInt64
  let moment: Date

  /// What a backup builds on.
  struct Base {
    let parent: Manifest
    /// What the bitmap counts from, and the bitmap; nil where hashes alone tell what changed.
    let tracked: (from: Manifest, changes: DirtyBitmap)?
  }

  /// The plan, with what it builds on.
  var plan: (plan: BackupPlan, base: Base?) {
    var (plan, base) = decided
    if let mixture = order.mixture { plan.reason += "; it is of a mixture: \(mixture)" }
    return (plan, base)
  }

  private var decided: (BackupPlan, Base?) {
    switch order.kind {
    case .full: (newChain(.full, order.kind.words), nil)
    case .copy: (newChain(.copy, order.kind.words), nil)
    case .incremental: increment(.incremental)
    case .differential: increment(.differential)
    case .auto: automatic
    }
  }

  private var automatic: (BackupPlan, Base?) {
    guard let chain, !chain.links.isEmpty || chain.brokenCount > 0 else {
      return (newChain(.full, "the first backup of the image in its repository begins a chain"), nil)
    }
    if let depth = usable.last?.depth, depth >= order.chainLength {
      return (newChain(.full, "the newest backup has \(depth) in a row, so a new chain begins"), nil)
    }
    return increment(.incremental)
  }

  private func increment(_ kind: BackupKind) -> (BackupPlan, Base?) {
    let why = order.kind.words
    guard let chain, !chain.links.isEmpty || chain.brokenCount > 0 else {
      return (full(why, "there is no backup of the image to build on", .noParent), nil)
    }
    guard chain.nextSequence <= Manifest.sequences.upperBound else {
      return (full(why, "the chain is full", .noParent), nil)
    }
    let usable = usable
    guard let full = usable.first?.manifest, let newest = usable.last?.manifest else {
      return (self.full(why, "nothing in the newest chain can be built on", .parentMissing), nil)
    }
    let (parent, reason): (Manifest, String)
    var fallback: BackupPlan.Fallback?
    let tracking = tracking(usable.map(\.manifest), kind == .differential ? full : newest)
    switch tracking {
    case .success(let tracked):
      parent = kind == .differential ? full : tracked.from
      reason = "\(why); a bitmap tells what changed since backup \(tracked.from.backup)"
    case .failure(let lack):
      parent = kind == .differential ? full : newest
      reason = "\(why); \(lack.text), so all was read and compared with the hashes of backup \(parent.backup)"
      fallback = BackupPlan.Fallback(to: .hash, reason: lack.reason)
    }
    let plan = BackupPlan(
      kind: kind, chain: chain.id, sequence: chain.nextSequence,
      parent: BackupPlan.Parent(backup: parent.backup, merkleRoot: parent.merkleRoot),
      reason: reason, fallback: fallback, pointInTime: moment)
    return (plan, Base(parent: parent, tracked: try? tracking.get()))
  }

  /// Why no bitmap tells what changed.
  private struct Lack: Error {
    let reason: FallbackReason
    let text: String
  }

  /// Without a bitmap: what else there is to say than that.
  private func lack(of parent: Manifest, _ reason: FallbackReason, _ text: String) -> Lack {
    if parent.virtualSize > byteCount {
      return Lack(
        reason: .sizeChanged, text: "the image was \(parent.virtualSize) bytes long and is \(byteCount)")
    }
    if reason == .bitmapMissing, isNewestBroken {
      return Lack(reason: .parentMissing, text: "what came after backup \(parent.backup) is gone or damaged")
    }
    return Lack(reason: reason, text: text)
  }

  private var isNewestBroken: Bool {
    guard let chain else { return false }
    return chain.brokenCount > 0 || chain.links.contains { order.unusableParents.contains($0.manifest.backup) }
  }

  /// The bitmap, and the backup that it counts from: the one whose checkpoint it names, never the newest as such.
  private func tracking(
    _ usable: [Manifest], _ parent: Manifest
  ) -> Result<(from: Manifest, changes: DirtyBitmap), Lack> {
    let stored: StoredTracker
    switch tracker {
    case .missing(let reason, let text): return .failure(lack(of: parent, reason, text))
    case .found(let found): stored = found
    }
    guard let from = usable.first(where: { $0.checkpoint == stored.checkpoint }) else {
      let text = "the backup that the image's bitmap counts from can't be built on"
      return .failure(Lack(reason: .parentMissing, text: text))
    }
    guard from.virtualSize <= byteCount, parent.virtualSize <= byteCount else {
      let text = "the image was \(max(from.virtualSize, parent.virtualSize)) bytes long and is \(byteCount)"
      return .failure(Lack(reason: .sizeChanged, text: text))
    }
    guard UInt64(from.granularity ?? 0) == stored.bitmap.granularity else {
      return .failure(Lack(reason: .granularityChanged, text: "the image's bitmap has another granularity"))
    }
    guard let marks = from.marks, !marks.isEmpty, stored.has(marks: marks) else {
      return .failure(Lack(reason: .trackingLost, text: "somebody cleared the image's bitmap"))
    }
    var changes = stored.bitmap
    // A disk that has grown is dirty from where it ended.
    for manifest in [from, parent] where manifest.virtualSize < byteCount {
      changes.set(ByteRange(manifest.virtualSize..<byteCount))
    }
    return .success((from, changes))
  }

  /// Complete backups that may be built on, with all below them. A mixture is none of them.
  private var usable: [StoredChain.Link] {
    guard let chain else { return [] }
    var refused = order.unusableParents
    return chain.links.filter { link in
      let manifest = link.manifest
      if let parent = manifest.parent?.backup, refused.contains(parent) { refused.insert(manifest.backup) }
      return !refused.contains(manifest.backup) && manifest.mixture != true
    }
  }

  // MARK: New chains

  private func full(_ why: String, _ but: String, _ reason: FallbackReason) -> BackupPlan {
    newChain(.full, "\(why), but \(but)", BackupPlan.Fallback(to: .full, reason: reason))
  }

  private func newChain(
    _ kind: BackupKind, _ reason: String, _ fallback: BackupPlan.Fallback? = nil
  ) -> BackupPlan {
    var id = order.newChain
    if let newest = chain?.id, id <= newest { id = ChainID(newest.ulid.next) }
    return BackupPlan(
      kind: kind, chain: id, sequence: 0, parent: nil, reason: reason, fallback: fallback, pointInTime: moment)
  }
}
