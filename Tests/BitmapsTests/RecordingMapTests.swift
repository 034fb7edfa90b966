import Bitmaps
import BlockCore
import BlockTesting
import Testing

/// The map holds what a bitmap holds, in memory that another reader understands.
struct RecordingMapTests {
  /// Memory of a map, with a bound for its pages.
  private final class Memory {
    let bytes: UnsafeMutableRawPointer
    let byteCount: Int
    var assigned: [Int] = []

    init(_ layout: RecordingMap.Layout) {
      byteCount = layout.byteCount
      bytes = .allocate(byteCount: byteCount, alignment: 4096)
      bytes.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
    }

    deinit { bytes.deallocate() }

    func map(_ layout: RecordingMap.Layout, pageLimit: Int = .max) -> RecordingMap {
      RecordingMap(layout, record: .max / 3, session: 7, in: bytes) { [unowned self] offset in
        if assigned.count == pageLimit { return false }
        assigned.append(offset)
        return true
      }
    }
  }

  @Test(arguments: 1...4) func theMapHoldsWhatABitmapHolds(seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    let layout = RecordingMap.Layout(
      diskByteCount: 300 << 20 | UInt64(random.below(1 << 20)), granularity: [512, 4096, 65536][random.below(3)])
    let memory = Memory(layout)
    let map = memory.map(layout)
    var expected = DirtyBitmap(byteCount: layout.diskByteCount, granularity: layout.granularity)
    for _ in 0..<200 {
      let range = random.range(within: layout.diskByteCount, alignment: 1, maximum: 20 << 20, near: 16 << 20)
      let change = ByteRange(range.lowerBound..<range.upperBound)
      map.set(change)
      expected.set(change)
    }
    map.lastChange = 1_800_000_000
    // As another process finds it.
    let found = try #require(RecordingMap(reading: memory.bytes, byteCount: memory.byteCount))
    #expect(found.layout == layout && found.record == .max / 3 && found.session == 7, "\(random)")
    #expect(found.lastChange == 1_800_000_000)
    var bitmap = DirtyBitmap(byteCount: layout.diskByteCount, granularity: layout.granularity)
    found.recorded.form(&bitmap)
    #expect(bitmap == expected && found.recorded.missing == [], "\(random)")
    #expect(memory.assigned.count == Set(memory.assigned).count)
    var coarse = DirtyBitmap(byteCount: layout.diskByteCount, granularity: 1 << 20)
    found.recorded.form(&coarse)
    #expect(coarse.isSuperset(of: expected))
  }

  @Test func whatHasNoPageIsMissing() {
    let layout = RecordingMap.Layout(diskByteCount: 1 << 40, granularity: 65536)
    let memory = Memory(layout)
    let map = memory.map(layout, pageLimit: 2)
    for offset: UInt64 in [0, 5 << 30, 9 << 30, 10 << 30, 1] { map.set(ByteRange(offset: offset, length: 1)) }
    let recorded = map.recorded
    #expect(recorded.pages.map(\.number) == [0, 2])
    #expect(recorded.missing == [8, 10].map { ByteRange(offset: $0 << 30, length: 2 << 30) })
  }

  @Test func whatIsNoMapIsNotRead() {
    let layout = RecordingMap.Layout(diskByteCount: 1 << 30, granularity: 65536)
    let memory = Memory(layout)
    #expect(RecordingMap(reading: memory.bytes, byteCount: memory.byteCount) == nil)
    _ = memory.map(layout)
    #expect(RecordingMap(reading: memory.bytes, byteCount: memory.byteCount) != nil)
    #expect(RecordingMap(reading: memory.bytes, byteCount: memory.byteCount - 1) == nil)
    #expect(RecordingMap(reading: memory.bytes, byteCount: 100) == nil)
    // Another size of the disk than the memory is for.
    memory.bytes.storeBytes(of: UInt64.max, toByteOffset: 32, as: UInt64.self)
    #expect(RecordingMap(reading: memory.bytes, byteCount: memory.byteCount) == nil)
  }
}
