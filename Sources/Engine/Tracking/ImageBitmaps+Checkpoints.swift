import Bitmaps
import BlockCore
import EventLoops
import Model
import Qcow2

// The trackers of an image whose guest goes on while it is backed up.
//
// B7. A tracker's new bitmap records from its moment on, in memory alone, and the one before it goes on recording. Once the
//     backup is durable the new one takes the other's place, in one durable step of the file. Until then the image has the
//     old one, which missed nothing: whatever comes in between, nothing has to be merged back.
// B8. A flush that began after the moment has succeeded by then: what the new bitmap doesn't count can't be undone by a
//     power loss.
extension ImageBitmaps {
  /// At the moment, or before: begins to record for a checkpoint. Those who change the set were kept away before.
  /// - Returns: false if the image can't record one more.
  func begin(_ checkpoint: NewCheckpoint, of tracker: TrackerName) -> Bool {
    let bitmap = BitmapSet.Bitmap(
      name: checkpoint.name(of: tracker), granularity: checkpoint.granularity, isRecording: true, isPersistent: false,
      bits: checkpoint.bits(byteCount: set.byteCount))
    return add(bitmap)
  }

  /// Has the checkpoint's bitmap take the place of the tracker's others, in the file too.
  nonisolated(nonsending)
    func settle(_ checkpoint: NewCheckpoint, of tracker: TrackerName) async throws(BlockError)
  {
    guard let begun = set[checkpoint.name(of: tracker)] else { return }
    try await changeFile { () async throws(BlockError) in try await image.flush() }
    try await store(
      BitmapSet.Bitmap(
        name: begun.name, granularity: begun.granularity, isRecording: true, bits: set[begun.name]?.bits),
      of: tracker)
  }

  /// Has the tracker count from nothing: its next backup compares by hash.
  nonisolated(nonsending)
    func giveUp(_ tracker: TrackerName) async throws(BlockError)
  {
    let granularity = StoredTracker.granularity(byteCount: set.byteCount)
    try await store(
      BitmapSet.Bitmap(
        name: TrackerBitmapName(tracker: tracker, checkpoint: TrackerBitmapName.noCheckpoint).bytes,
        granularity: granularity, isRecording: false,
        bits: DirtyBitmap(byteCount: set.byteCount, granularity: granularity)),
      of: tracker)
  }

  /// Ends the recording for a checkpoint that isn't to be.
  func drop(_ checkpoint: NewCheckpoint, of tracker: TrackerName) { takeOut(checkpoint.name(of: tracker)) }

  /// - Parameter bitmap: with the bits that the file gets. What it records afterwards is stored at the image's close.
  nonisolated(nonsending)
    private func store(_ bitmap: BitmapSet.Bitmap, of tracker: TrackerName) async throws(BlockError)
  {
    let stored = try await image.bitmaps()
    let old =
      stored.areTrusted ? stored.entries.map(\.nameBytes).filter { TrackerBitmapName($0)?.tracker == tracker } : []
    guard let storing = image.storing(bitmap, isInUse: bitmap.isRecording) else { return }
    try await changeFile { () async throws(BlockError) in
      try await image.changeBitmaps(old.filter { $0 != bitmap.name }.map { .remove(name: $0) } + [storing])
    }
    var new = bitmap
    if bitmap.isRecording, let recorded = set[bitmap.name]?.bits {
      new = BitmapSet.Bitmap(
        name: bitmap.name, granularity: bitmap.granularity, isRecording: true, bits: recorded)
    }
    install(new, insteadOf: Set(old + [bitmap.name]), areOrphansGone: !stored.areTrusted)
  }
}

extension NewCheckpoint {
  func name(of tracker: TrackerName) -> [UInt8] { TrackerBitmapName(tracker: tracker, checkpoint: id).bytes }

  /// Those of a bitmap that counts from it, see K4.
  func bits(byteCount: UInt64) -> DirtyBitmap {
    var bits = DirtyBitmap(byteCount: byteCount, granularity: granularity)
    for mark in marks { bits.set(ByteRange(offset: mark * granularity, length: 1)) }
    return bits
  }
}
