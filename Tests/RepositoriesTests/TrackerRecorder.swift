import Bitmaps
import BlockCore
import BlockFilters

/// A tracker's bitmap as a server keeps it while an image is open: in a set, as it is stored, and in a map that outlives a
/// crash.
final class TrackerRecorder: ChangeRecorder, @unchecked Sendable {
  // Safe to hand over: confined to its loop.

  private static let name = Array("cobweb.line.checkpoint".utf8)
  private static let granularity: UInt64 = 4096

  private var set: BitmapSet
  /// What the image has of it.
  private var stored: DirtyBitmap
  private var memory: MapMemory
  private var map: RecordingMap

  init(byteCount: UInt64) {
    stored = DirtyBitmap(byteCount: byteCount, granularity: Self.granularity)
    set = BitmapSet(
      byteCount: byteCount,
      [.init(name: Self.name, granularity: Self.granularity, isRecording: true, bits: stored)])
    (memory, map) = MapMemory.map(byteCount: byteCount, granularity: Self.granularity)
  }

  private var bits: DirtyBitmap {
    guard let bits = set[Self.name]?.bits else { preconditionFailure("it records") }
    return bits
  }

  func record(_ range: ByteRange) {
    map.set(range)
    set.record(range)
  }

  /// What changed since it was last taken; from now on it is clean.
  func freeze() -> DirtyBitmap {
    let frozen = bits
    let clean = DirtyBitmap(byteCount: set.byteCount, granularity: Self.granularity)
    _ = set.replace(
      [Self.name], by: .init(name: Self.name, granularity: Self.granularity, isRecording: true, bits: clean))
    return frozen
  }

  /// What a backup was made of, or held, is dirty again.
  func merge(_ bits: DirtyBitmap) {
    set.record(bits)
    stored.formUnion(bits.resized(to: stored.byteCount, isGrowthDirty: true))
  }

  /// The image gets what is dirty, and the record of what comes begins anew.
  func store() {
    stored = bits
    (memory, map) = MapMemory.map(byteCount: set.byteCount, granularity: Self.granularity)
  }

  /// What was in the set alone is lost. What the image and the map have comes back, and no less than what was there.
  func crash() {
    var recovered = stored
    map.recorded.form(&recovered)
    precondition(recovered.isSuperset(of: bits), "the map misses a change")
    set = BitmapSet(
      byteCount: set.byteCount,
      [.init(name: Self.name, granularity: Self.granularity, isRecording: true, bits: recovered)])
    store()
  }
}

/// Memory that a map is in.
private final class MapMemory {
  let bytes: UnsafeMutableRawPointer

  private init(byteCount: Int) {
    bytes = .allocate(byteCount: byteCount, alignment: 4096)
    bytes.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
  }

  deinit { bytes.deallocate() }

  static func map(byteCount: UInt64, granularity: UInt64) -> (MapMemory, RecordingMap) {
    let layout = RecordingMap.Layout(diskByteCount: byteCount, granularity: granularity)
    let memory = MapMemory(byteCount: layout.byteCount)
    return (memory, RecordingMap(layout, record: 1, session: 1, in: memory.bytes) { _ in true })
  }
}
