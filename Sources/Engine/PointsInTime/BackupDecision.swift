import Foundation
import Model
import Repositories

/// What a backup will be: decided at its moment, under the image's lease, from what the repository holds then.
///
/// Places in a chain are told by sequence, never by time. A new chain's id is above that of the newest one, whatever the
/// clock says.
struct BackupDecision {
  let order: BackupOrder
  /// The newest that a full began.
  let chain: StoredChain?
  /// Bytes of the image.
  let byteCount: UInt64
  let moment: Date

  /// The plan, with what it builds on.
  var plan: (plan: BackupPlan, parent: Manifest?) {
    var (plan, parent) = decided
    if let mixture = order.mixture { plan.reason += "; it is of a mixture: \(mixture)" }
    return (plan, parent)
  }

  private var decided: (BackupPlan, Manifest?) {
    switch order.kind {
    case .full: (newChain(.full, order.kind.words), nil)
    case .copy: (newChain(.copy, order.kind.words), nil)
    case .incremental: increment(.incremental)
    case .differential: increment(.differential)
    case .auto: automatic
    }
  }

  private var automatic: (BackupPlan, Manifest?) {
    guard let chain, !chain.links.isEmpty || chain.brokenCount > 0 else {
      return (newChain(.full, "the first backup of the image in its repository begins a chain"), nil)
    }
    if let depth = usable.last?.depth, depth >= order.chainLength {
      return (newChain(.full, "the newest backup has \(depth) in a row, so a new chain begins"), nil)
    }
    return increment(.incremental)
  }

  private func increment(_ kind: BackupKind) -> (BackupPlan, Manifest?) {
    let why = order.kind.words
    guard let chain, !chain.links.isEmpty || chain.brokenCount > 0 else {
      return (full(why, "there is no backup of the image to build on", .noParent), nil)
    }
    guard chain.nextSequence <= Manifest.sequences.upperBound else {
      return (full(why, "the chain is full", .noParent), nil)
    }
    let usable = usable
    guard let parent = kind == .differential ? usable.first : usable.last else {
      return (full(why, "nothing in the newest chain can be built on", .parentMissing), nil)
    }
    let fallback = fallback(over: parent.manifest, kind)
    let plan = BackupPlan(
      kind: kind, chain: chain.id, sequence: chain.nextSequence,
      parent: BackupPlan.Parent(backup: parent.manifest.backup, merkleRoot: parent.manifest.merkleRoot),
      reason:
        "\(why); \(fallback.text), so all was read and compared with the hashes of backup \(parent.manifest.backup)",
      fallback: BackupPlan.Fallback(to: .hash, reason: fallback.reason), pointInTime: moment)
    return (plan, parent.manifest)
  }

  private func fallback(over parent: Manifest, _ kind: BackupKind) -> (reason: FallbackReason, text: String) {
    if parent.virtualSize > byteCount {
      return (.sizeChanged, "the image was \(parent.virtualSize) bytes long and is \(byteCount)")
    }
    if kind == .incremental, isNewestBroken {
      return (.parentMissing, "what came after backup \(parent.backup) is gone or damaged")
    }
    return (.bitmapMissing, "no bitmap counts from backup \(parent.backup)")
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

  private var isNewestBroken: Bool {
    guard let chain else { return false }
    return chain.brokenCount > 0 || chain.links.contains { order.unusableParents.contains($0.manifest.backup) }
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
