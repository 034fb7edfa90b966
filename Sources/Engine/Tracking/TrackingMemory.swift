import Bitmaps
import Locks
import Model

/// The memory that recording changes may take, over all images.
///
/// M1. What recording an image takes from the start is taken when the image is opened to be written, and when its bitmaps
///     change: where that isn't left, this is refused before anything has changed.
/// M2. What a record takes as the guest writes is taken then. Where that isn't left, whole regions are recorded: no guest
///     waits or fails for want of memory.
/// M3. An eighth is kept for M1: guests that write everywhere keep no other image from being opened.
final class TrackingMemory: Sendable {
  let byteCount: Int
  private let left: Lock<Int>

  init(byteCount: Int) {
    self.byteCount = byteCount
    left = Lock(byteCount)
  }

  private var keptByteCount: Int { byteCount / 8 }

  /// For what isn't needed at all costs; false where there is no more.
  func take(_ count: Int) -> Bool {
    left.withLock { left in
      guard left - count >= keptByteCount else { return false }
      left -= count
      return true
    }
  }

  func giveBack(_ count: Int) { left.withLock { $0 += count } }

  /// - Throws: `bitmapLimit`.
  fileprivate func takeFromTheStart(_ count: Int, for image: String) throws(DomainError) {
    let missing = left.withLock { left -> Int? in
      guard left >= count else { return left }
      left -= count
      return nil
    }
    guard let missing else { return }
    throw Self.refusal(
      "recording \(image) takes at least \(count) more bytes of memory, and \(missing) of the \(byteCount) that "
        + "`trackingMemory` allows are left")
  }

  /// Refuses what can't be recorded even if nothing else is. For images at rest, whose bitmaps record when they are opened.
  func requireRoom(for set: BitmapSet, insteadOf old: BitmapSet, of image: String) throws(DomainError) {
    let count = Self.byteCountFromTheStart(of: set)
    guard count > byteCount, count > Self.byteCountFromTheStart(of: old) else { return }
    throw Self.refusal(
      "recording \(image) takes at least \(count) bytes of memory, and `trackingMemory` allows \(byteCount) for all "
        + "images together")
  }

  private static func refusal(_ detail: String) -> DomainError {
    DomainError(
      .bitmapLimit, detail,
      remedy: "disable or remove bitmaps that nobody needs, take a coarser granularity, or raise `trackingMemory`")
  }

  /// What recording all of an image's bitmaps takes before anything changes: the map of what changed, and the bitmaps.
  fileprivate static func byteCountFromTheStart(of set: BitmapSet) -> Int {
    guard let granularity = set.finestGranularity else { return 0 }
    return RecordingMap.Layout(diskByteCount: set.byteCount, granularity: granularity).leadingByteCount
      + Int(set.leastRecordedByteCount)
  }
}

/// What recording one image takes from the start, as long as this lives.
final class TrackingShare: Sendable {
  private let memory: TrackingMemory
  private let image: String
  private let taken: Lock<Int>

  /// - Throws: `bitmapLimit`.
  init(of set: BitmapSet, from memory: TrackingMemory, image: String) throws(DomainError) {
    let count = TrackingMemory.byteCountFromTheStart(of: set)
    try memory.takeFromTheStart(count, for: image)
    (self.memory, self.image) = (memory, image)
    taken = Lock(count)
  }

  deinit { memory.giveBack(taken.withLock { $0 }) }

  /// Makes it enough for another set. It gives nothing back: the set of before may stay.
  /// - Throws: `bitmapLimit`.
  func grow(for set: BitmapSet) throws(DomainError) {
    let more = TrackingMemory.byteCountFromTheStart(of: set) - taken.withLock { $0 }
    guard more > 0 else { return }
    try memory.takeFromTheStart(more, for: image)
    taken.withLock { $0 += more }
  }

  /// Gives back what the set doesn't take.
  func shrink(to set: BitmapSet) {
    let rest = taken.withLock { taken in
      let count = min(taken, TrackingMemory.byteCountFromTheStart(of: set))
      defer { taken = count }
      return taken - count
    }
    memory.giveBack(rest)
  }
}
