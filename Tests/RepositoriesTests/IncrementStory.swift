import Bitmaps
import BlockCore
import BlockFilters
import BlockTesting
import Buffers
import Bytes
import Model
import Qcow2
import Repositories
import Testing

/// A guest's disk in memory, the bitmap of what it changes, and backups made of what the bitmap calls dirty: nothing else is
/// looked at, so that a change which it misses is missing in the next increment.
///
/// A disk of some hundred KiB; no more than ``mostPoints`` backups at a time.
final class IncrementStory {
  struct Point {
    /// Its file and those that it builds on, the full first.
    var chain: TestChain
    /// What its own file holds.
    let stored: DirtyBitmap
    /// Nil of a full.
    let parent: BackupID?
    /// What the disk held.
    let moment: [UInt8]
    let hashes: PointHashes
  }

  static let block: UInt64 = 4096
  static let mostPoints = 8

  private let memory: MemoryDevice
  private let faulty: FaultyDevice
  private let guest: DirtyTracking
  private let recorder: TrackerRecorder
  private var points: [BackupID: Point] = [:]
  /// What the tracker's bitmap counts from.
  private var current: BackupID?
  private var random: SeededRandom
  private(set) var incrementCount = 0

  init(seed: UInt64) {
    random = SeededRandom(seed: seed)
    let byteCount = 512 * UInt64(200 + random.below(400))
    memory = MemoryDevice(byteCount: byteCount)
    faulty = FaultyDevice(memory)
    recorder = TrackerRecorder(byteCount: byteCount)
    guest = DirtyTracking(faulty, recorder: recorder)
  }

  // MARK: Steps

  nonisolated(nonsending)
    func step() async throws
  {
    switch random.below(24) {
    case 0: try await grow()
    case 1: recorder.crash()
    case 2: recorder.store()
    case 3, 4: try await delete()
    case 5, 6, 7, 8: try await increment()
    case 9: try await increment(fails: true)
    default: try await change()
    }
  }

  /// As a guest changes its disk. One in four fails, done, done in part or not at all.
  nonisolated(nonsending)
    private func change() async throws
  {
    let range = random.range(within: memory.byteCount, alignment: 1, maximum: 20_000, near: Int(Self.block))
    let change = ByteRange(range.lowerBound..<range.upperBound)
    if random.oneIn(4) {
      faulty.fault = Fault(
        atCall: 1, of: Fault.changingOperations,
        effect: Fault.Effect.allCases[random.below(Fault.Effect.allCases.count)])
    }
    do throws(BlockError) {
      switch random.below(4) {
      case 0: try await guest.writeZeroes(change, options: random.oneIn(2) ? .mayUnmap : [])
      case 1: try await guest.discard(change)
      default: try await guest.writeBytes(random.bytes(Int(change.length)), at: change.offset)
      }
    } catch {
      #expect(faulty.fault != nil, "\(random): \(error)")
    }
    faulty.fault = nil
  }

  nonisolated(nonsending)
    private func grow() async throws
  {
    guard memory.byteCount < 600 << 10 else { return }
    try await guest.resize(to: memory.byteCount + 512 * UInt64(1 + random.below(60)))
    // A session's record is of a disk of one size.
    recorder.store()
  }

  /// One of some kind. The guest goes on while it is made.
  /// - Parameter fails: it comes to nothing, and what it would have held is dirty again.
  nonisolated(nonsending)
    private func increment(fails: Bool = false) async throws
  {
    if points.count == Self.mostPoints { (points, current) = ([:], nil) }
    let parent = random.oneIn(6) ? nil : random.oneIn(4) ? full(of: current) : current
    let moment = MemoryDevice(memory.image)
    let frozen = recorder.freeze()
    for _ in 0..<random.below(3) { try await change() }
    if fails { return recorder.merge(frozen) }
    var dirty = frozen
    if parent == nil { dirty.setAll() }
    if parent != nil, parent != current {
      for point in path(to: current).dropFirst() { dirty.formUnion(resized(point.stored)) }
    }
    let id = BackupID()
    let point = try await backUp(moment, dirty, over: parent, as: id)
    points[id] = point
    current = id
    recorder.store()
    incrementCount += 1
    try await expectAllReadable()
  }

  /// The one that the tracker counts from goes: its parent takes its place, with what it held.
  nonisolated(nonsending)
    private func delete() async throws
  {
    guard let current, let point = points[current], let parent = point.parent else { return }
    points[current] = nil
    self.current = parent
    recorder.merge(point.stored)
    try await expectAllReadable()
  }

  // MARK: Backups

  /// From the full on.
  private func path(to id: BackupID?) -> [Point] {
    guard let id, let point = points[id] else { return [] }
    return path(to: point.parent) + [point]
  }

  private func full(of id: BackupID?) -> BackupID? {
    guard let id, let parent = points[id]?.parent else { return id }
    return full(of: parent)
  }

  private func resized(_ bits: DirtyBitmap) -> DirtyBitmap {
    bits.resized(to: memory.byteCount, isGrowthDirty: true)
  }

  nonisolated(nonsending)
    private func backUp(
      _ moment: MemoryDevice, _ dirty: DirtyBitmap, over parent: BackupID?, as id: BackupID
    ) async throws -> Point
  {
    let bytes = try await moment.readAll()
    let below = parent.flatMap { points[$0] }
    let stored = Self.differing(bytes, below?.moment, within: dirty)
    var chain = below?.chain ?? TestChain(seed: 0)
    let options = Qcow2Image.CreateOptions(virtualByteCount: moment.byteCount, clusterByteCount: Int(Self.block))
    try await chain.addLayer(options) { image, model, _ in
      for range in stored.dirtyRanges {
        let part = Array(bytes[Int(range.offset)..<Int(range.end)])
        try await image.writeBytes(part, at: range.offset)
        model.write(part, at: range.offset)
      }
    }
    #expect(chain.layers.last?.model.bytes == bytes, "\(random): an increment misses a change")
    let hashes = try await PointHashes(of: bytes, stored, over: below?.hashes)
    let whole = try await PointHashes(of: bytes, stored, over: nil)
    #expect(hashes.root == whole.root, "\(random)")
    return Point(chain: chain, stored: stored, parent: parent, moment: bytes, hashes: hashes)
  }

  /// The dirty blocks that the older contents don't have so.
  private static func differing(_ bytes: [UInt8], _ old: [UInt8]?, within dirty: DirtyBitmap) -> DirtyBitmap {
    var differing = DirtyBitmap(byteCount: UInt64(bytes.count), granularity: block)
    for range in dirty.dirtyRanges {
      for start in stride(from: range.offset, to: min(range.end, UInt64(bytes.count)), by: Int(block)) {
        let part = Int(start)..<min(Int(start + block), bytes.count)
        let isAsBefore = old.map { $0.count >= part.upperBound && $0[part] == bytes[part] } ?? false
        if !isAsBefore { differing.set(ByteRange(UInt64(part.lowerBound)..<UInt64(part.upperBound))) }
      }
    }
    return differing
  }

  /// Every backup, through the map of its chain.
  nonisolated(nonsending)
    private func expectAllReadable() async throws
  {
    for point in points.values {
      let (chain, top) = (point.chain, point.chain.layers.count - 1)
      let image: any BlockDevice =
        top == 0
        ? try await chain.stacked(upTo: 0)
        : try await ChainImage.open(
          chain.files(upTo: top) { chain.device($0) }, openFileCount: 3, work: InlineWork(), pool: BufferPool())
      #expect(try await image.readAll() == point.moment, "\(random), after \(incrementCount) increments")
      try await image.close()
    }
  }
}

/// The hash file of a backup over those that it builds on.
struct PointHashes {
  private static let backup = BackupID()

  let root: Digest
  private let reader: HashTreeReader
  /// The nearest first, the own before all.
  private let files: [HashFile]

  /// - Parameters:
  ///   - bytes: what the disk holds.
  ///   - stored: what may differ from the parent.
  nonisolated(nonsending)
    init(of bytes: [UInt8], _ stored: DirtyBitmap, over parent: PointHashes?) async throws
  {
    let file = MemoryDevice(byteCount: 0)
    let byteCount = UInt64(bytes.count)
    let tree = HashTree(byteCount: byteCount)
    let writer = try await HashTreeWriter(tree, over: parent?.reader, to: file, work: InlineWork())
    for index in 0..<Int(tree.leafCount) {
      let grain = index * HashTree.grainByteCount..<min((index + 1) * HashTree.grainByteCount, bytes.count)
      let range = ByteRange(UInt64(grain.lowerBound)..<UInt64(grain.upperBound))
      guard parent == nil || stored.nextDirty(from: range.offset, before: range.end) != nil else { continue }
      try await writer.put([HashTree.leaf(of: Array(bytes[grain]).span.bytes)], at: UInt64(index))
    }
    root = try await writer.finish(backup: Self.backup)
    files =
      [try await HashFile(file, expecting: root, byteCount: byteCount, backup: Self.backup)] + (parent?.files ?? [])
    reader = try await HashTreeReader(
      file, expecting: root, byteCount: byteCount, backup: Self.backup,
      over: parent.map { HashLayers($0.files) }, work: InlineWork())
  }
}
