import Bitmaps
import BlockCore
import Failures
import Model
import Repositories

// What a bitmap tells a backup of what changed.
extension LocalEngine {
  /// Where an image may differ from what is built on: what changed since the backup that its bitmap counts from, and where
  /// that one differs from the parent.
  nonisolated(nonsending)
    func changes(
      _ bits: DirtyBitmap, of from: StoredBackup, since base: StoredBackup
    ) async throws -> DirtyBitmap
  {
    guard from.manifest.backup != base.manifest.backup else { return bits }
    let parent = try await base.openHashes(work: work)
    return try await closing([parent.device]) { try await changes(bits, of: from, since: base, parent.reader) }
  }

  /// The bits, with where a backup differs from one that it builds on.
  nonisolated(nonsending)
    private func changes(
      _ bits: DirtyBitmap, of from: StoredBackup, since base: StoredBackup, _ parent: HashTreeReader
    ) async throws -> DirtyBitmap
  {
    let stored = try await storedBlocks(of: from, downTo: base, like: bits)
    var changes = bits
    let hashes = try await from.openHashes(work: work)
    try await closing([hashes.device]) {
      try await tellingAboutHashes(from.hashesName) {
        let end = max(hashes.reader.tree.leafCount, parent.tree.leafCount)
        var next: UInt64 = 0
        while next < end, let run = try await hashes.reader.firstDifference(from: parent, in: next..<end) {
          for leaf in run { changes.set(grain: leaf, where: stored) }
          next = run.upperBound
        }
      }
    }
    return changes
  }

  /// Extents that are asked for at a time.
  private static let extentsPerStatus = 1024

  /// What a backup and those below it hold that build on `base`, in blocks of a bitmap; nil where one doesn't build on it, or
  /// has no tables.
  nonisolated(nonsending)
    private func storedBlocks(
      of backup: StoredBackup, downTo base: StoredBackup, like bitmap: DirtyBitmap
    ) async throws -> DirtyBitmap?
  {
    let below = try await backup.repository.ancestry(of: backup)
    guard let end = below.firstIndex(where: { $0.manifest.backup == base.manifest.backup }) else { return nil }
    var stored = DirtyBitmap(byteCount: bitmap.byteCount, granularity: bitmap.granularity)
    for link in [backup] + below[..<end] {
      guard let tables = try await link.repository.openTables(of: link.location) else { return nil }
      try await closing([tables]) {
        try await telling(about: link.dataName, damage: .backupCorrupt) {
          var offset: UInt64 = 0
          while offset < tables.byteCount {
            let rest = ByteRange(offset..<tables.byteCount)
            let extents = try await tables.blockStatus(rest, limit: Self.extentsPerStatus)
            for extent in extents where extent.depth > 0 { stored.set(extent.range) }
            offset = extents.last?.range.end ?? rest.end
          }
        }
      }
      // Past the end of a shorter disk nothing shows of what lies below.
      if link.manifest.virtualSize < stored.byteCount {
        stored.set(ByteRange(link.manifest.virtualSize..<stored.byteCount))
      }
    }
    return stored
  }

  /// The grains that have a change, in order, neighbours joined.
  func wholeGrains(_ changes: DirtyBitmap, byteCount: UInt64) -> [ByteRange] {
    var ranges: [ByteRange] = []
    for dirty in changes.dirtyRanges {
      let whole = dirty.aligned(to: UInt64(ChunkGeometry.standard.unit))
      let range = ByteRange(whole.offset..<min(whole.end, byteCount))
      if let last = ranges.last, last.end >= range.offset {
        ranges[ranges.count - 1].length = max(last.end, range.end) - last.offset
      } else {
        ranges.append(range)
      }
    }
    return ranges
  }

  /// - Throws: `trackingLost` if one of a few of the other grains has changed too.
  nonisolated(nonsending)
    func checkSample(_ begun: BegunBackup, over base: BackupSink.Base, _ control: any JobControl) async throws
  {
    let name = begun.image.name
    let check = SampledCheck(leaves: begun.sample, source: begun.image.source, base: base, work: work)
    let missed = try await telling(about: name) { try await check.firstMissed { try await control.checkpoint() } }
    guard let missed else { return }
    throw DomainError(
      .trackingLost, "\(name): its bitmap says nothing of a change of the bytes \(missed)",
      remedy: "start the backup again: it reads everything; find out what writes to the image without recording it")
  }
}

extension DirtyBitmap {
  /// Makes dirty what `stored` has of a grain; all of it where it has nothing, or there is none.
  fileprivate mutating func set(grain leaf: UInt64, where stored: DirtyBitmap?) {
    let grain = ByteRange(offset: leaf * UInt64(HashTree.grainByteCount), length: UInt64(HashTree.grainByteCount))
    let ranges = stored.map { Array($0.dirtyRanges(in: grain)) } ?? []
    for range in ranges.isEmpty ? [grain] : ranges { set(range) }
  }
}
