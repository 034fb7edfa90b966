import Bitmaps
import BlockCore
import Failures
import Model
import Repositories

// What a bitmap tells a backup of what changed.
extension LocalEngine {
  /// Where an image may differ from what is built on: what changed since the backup that its bitmap counts from, and where
  /// that one differs from the parent. Nil: anywhere.
  nonisolated(nonsending)
    func changes(_ begun: BegunBackup, since parent: HashTreeReader) async throws -> DirtyBitmap?
  {
    guard let tracked = begun.tracked else { return nil }
    guard tracked.from.manifest.backup != begun.parent?.manifest.backup else { return tracked.changes }
    var changes = tracked.changes
    let hashes = try await tracked.from.openHashes(work: work)
    try await closing([hashes.device]) {
      try await tellingAboutHashes(tracked.from.hashesName) {
        let end = max(hashes.reader.tree.leafCount, parent.tree.leafCount)
        var next: UInt64 = 0
        while next < end, let run = try await hashes.reader.firstDifference(from: parent, in: next..<end) {
          let grain = UInt64(HashTree.grainByteCount)
          changes.set(ByteRange(run.lowerBound * grain..<run.upperBound * grain))
          next = run.upperBound
        }
      }
    }
    return changes
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
    func checkSample(
      of image: OpenImage, besides grains: [ByteRange], over base: BackupSink.Base, _ control: any JobControl
    ) async throws
  {
    let check = SampledCheck(
      share: configuration.sampledCheck, source: image.device, base: base, changed: grains, work: work)
    let missed = try await telling(about: image.name) { try await check.firstMissed { try await control.checkpoint() } }
    guard let missed else { return }
    throw DomainError(
      .trackingLost, "\(image.name): its bitmap says nothing of a change of the bytes \(missed)",
      remedy: "start the backup again: it reads everything; find out what writes to the image without recording it")
  }
}
