import BlockCore
import BlockTesting
import Bytes
import Engine
import Locks
import Model
import Repositories
import Testing

/// A backup's disk in memory, with its hashes, as readers of an export see it.
private final class CheckedDisk {
  static let grain = UInt64(HashTree.grainByteCount)
  private static let backup = BackupID()

  let data: MemoryDevice
  let model: [UInt8]
  let file = MemoryDevice(byteCount: 0)
  private let root: Digest
  private let met = Lock<[MetDamage]>([])

  /// What its readers met.
  var damages: [MetDamage] { met.withLock { $0 } }

  /// - Parameter fill: what the disk holds, over zeroes.
  nonisolated(nonsending)
    init(
      byteCount: UInt64, options: MemoryDevice.Options = .init(), _ fill: (inout SparseImage) -> Void
    ) async throws
  {
    var image = SparseImage(byteCount: byteCount)
    fill(&image)
    data = MemoryDevice(image, options: options)
    model = try await MemoryDevice(image).readAll()
    let writer = try await HashTreeWriter(HashTree(byteCount: byteCount), to: file, work: InlineWork())
    for start in stride(from: 0, to: model.count, by: HashTree.grainByteCount) {
      let grain = Array(model[start..<min(start + HashTree.grainByteCount, model.count)])
      try await writer.put([HashTree.leaf(of: grain.span.bytes)], at: UInt64(start) / Self.grain)
    }
    root = try await writer.finish(backup: Self.backup)
  }

  /// Random data, with zeroes between.
  nonisolated(nonsending)
    convenience init(
      grains: UInt64, tail: UInt64 = 0, options: MemoryDevice.Options = .init(), seed: UInt64
    ) async throws
  {
    var random = SeededRandom(seed: seed)
    try await self.init(byteCount: grains * Self.grain + tail, options: options) { image in
      for grain in 0..<(grains + (tail > 0 ? 1 : 0)) where !random.oneIn(3) {
        let end = min((grain + 1) * Self.grain, image.byteCount)
        // Some fill their grain, some leave zeroes in it.
        let start = grain * Self.grain + (random.oneIn(2) ? 0 : min(8192, (end - grain * Self.grain) / 2))
        let bytes = random.bytes(Int(end - start))
        image.write(bytes.span.bytes, at: start)
      }
    }
  }

  /// - Parameters:
  ///   - dataAccess, hashAccess: what stands before the data and the hashes.
  nonisolated(nonsending)
    func open(
      data dataAccess: (any BlockDevice)? = nil, hashes hashAccess: (any BlockDevice)? = nil,
      work: any BackgroundWork = InlineWork()
    ) async throws -> CheckedBackup
  {
    let device = hashAccess ?? file
    let reader = try await HashTreeReader(
      device, expecting: root, byteCount: data.byteCount, backup: Self.backup, work: InlineWork())
    return CheckedBackup(
      dataAccess ?? data, against: (reader, device), names: ("0000.qcow2", "0000.hashes"), work: work
    ) { [met] damage in met.withLock { $0.append(damage) } }
  }

  func flip(_ offset: UInt64) {
    let byte = [model[Int(offset)] ^ 1]
    data.image.write(byte.span.bytes, at: offset)
  }
}

/// Counts what is hashed.
private final class CountingWork: BackgroundWork {
  private let counted = Lock(0)
  var count: Int { counted.withLock { $0 } }

  func run<Result: Sendable>(_ work: @Sendable @escaping () -> Result) async -> Result {
    counted.withLock { $0 += 1 }
    return work()
  }
}

/// Nothing is given out of a backup that isn't what was backed up.
@Suite struct CheckedBackupTests {
  private static let grain = CheckedDisk.grain

  private static func isCorrupt(_ error: BlockError?) -> Bool {
    if case .corrupt = error?.kind { true } else { false }
  }

  @Test func readsAndStatusAreThoseOfTheData() async throws {
    try await LoopActor().run { _ in
      for seed in 1...UInt64(TestEffort.rounds(6)) {
        var options = MemoryDevice.Options()
        options.isReadOnly = true
        options.interleavingSeed = seed
        let disk = try await CheckedDisk(grains: 40, tail: seed % 2 * 5000, options: options, seed: seed)
        let checked = try await disk.open()
        var random = SeededRandom(seed: seed)
        for _ in 0..<60 {
          let range = random.range(within: disk.data.byteCount, alignment: 1, maximum: 700_000, near: 65536)
          let found = try await checked.readBytes(range.count, at: range.lowerBound)
          #expect(found == Array(disk.model[Int(range.lowerBound)..<Int(range.upperBound)]), "\(range), \(random)")
        }
        var end: UInt64 = 0
        for extent in try await checked.wholeStatus(ByteRange(0..<disk.data.byteCount)) {
          let bytes = disk.model[Int(extent.range.offset)..<Int(extent.range.end)]
          #expect(extent.range.offset == end && (!extent.readsAsZero || bytes.allSatisfy { $0 == 0 }))
          end = extent.range.end
        }
        #expect(end == disk.data.byteCount && disk.damages.isEmpty)
        try await checked.close()
        await #expect(throws: BlockError(.closed, .read)) { try await checked.readBytes(1, at: 0) }
      }
    }
  }

  @Test func emptyAndForeignRequestsAreJudged() async throws {
    try await LoopActor().run { _ in
      let disk = try await CheckedDisk(grains: 2, seed: 1)
      let checked = try await disk.open()
      #expect(try await checked.readBytes(0, at: 2 * Self.grain) == [])
      await #expect(throws: BlockError.self) { try await checked.readBytes(2, at: 2 * Self.grain - 1) }
      let error = await #expect(throws: BlockError.self) { try await checked.writeBytes([1], at: 0) }
      #expect(error?.kind == .readOnly && checked.isReadOnly)
    }
  }

  @Test func leafIsReadAndHashedOnce() async throws {
    try await LoopActor().run { _ in
      let disk = try await CheckedDisk(byteCount: 8 * Self.grain) { image in
        image.write([UInt8](repeating: 9, count: Int(image.byteCount)).span.bytes, at: 0)
      }
      let work = CountingWork()
      let checked = try await disk.open(work: work)
      _ = try await checked.readBytes(4096, at: Self.grain + 4096)
      #expect(work.count == 1 && disk.data.calls[.read] == 1)
      // Neighbours in the leaf are the data's to answer, on the spot.
      var page = [UInt8](repeating: 0, count: 4096)
      var span = page.mutableSpan
      var bytes = span.mutableBytes
      #expect(try checked.tryRead(into: &bytes, at: Self.grain))
      #expect(disk.data.calls[.read] == 1 && disk.data.calls.tryReads == 1)
      #expect(try !checked.tryRead(into: &bytes, at: 2 * Self.grain))
      #expect(try !checked.tryRead(into: &bytes, at: 2 * Self.grain - 1))
      #expect(disk.data.calls.tryReads == 1)
      // What is left of a stretch is hashed around what was.
      _ = try await checked.readAll()
      #expect(work.count == 4 && disk.data.calls[.read] == 5)
      _ = try await checked.readAll()
      #expect(work.count == 4)
    }
  }

  @Test func manyFirstReadsOfOneLeafHashItOnce() async throws {
    let home = LoopActor()
    try await home.run { _ in
      var options = MemoryDevice.Options()
      options.interleavingSeed = 3
      let disk = try await CheckedDisk(byteCount: 4 * Self.grain, options: options) { image in
        image.write([UInt8](repeating: 9, count: Int(image.byteCount)).span.bytes, at: 0)
      }
      let work = CountingWork()
      let checked = try await disk.open(work: work)
      try await withThrowingTaskGroup(of: Void.self) { group in
        for place in 0..<16 as Range<UInt64> {
          group.addTask {
            let found = try await home.run { _ in try await checked.readBytes(4096, at: place * 4096) }
            #expect(found == [UInt8](repeating: 9, count: 4096))
          }
        }
        try await group.waitForAll()
      }
      #expect(work.count == 1)
    }
  }

  @Test func zeroesAreNeitherReadNorHashed() async throws {
    try await LoopActor().run { _ in
      let disk = try await CheckedDisk(byteCount: 64 << 20) { _ in }
      let work = CountingWork()
      let checked = try await disk.open(work: work)
      _ = try await checked.readAll()
      #expect(work.count == 0 && disk.data.calls[.read] == 0)
      let status = try await checked.wholeStatus(ByteRange(0..<checked.byteCount))
      #expect(status.count == 1 && status[0].readsAsZero)
    }
  }

  @Test func flippedByteFailsTheReadsOfItsLeafAlone() async throws {
    try await LoopActor().run { _ in
      let disk = try await CheckedDisk(byteCount: 6 * Self.grain + 100) { image in
        image.write([UInt8](repeating: 9, count: Int(image.byteCount)).span.bytes, at: 0)
      }
      for place in [0, 3 * Self.grain + 77, 6 * Self.grain + 99] {
        let leaf = place / Self.grain
        disk.flip(place)
        let checked = try await disk.open()
        let before = disk.damages.count
        for other in 0..<7 as Range<UInt64> where other != leaf {
          let count = Int(min(Self.grain, checked.byteCount - other * Self.grain))
          #expect(try await checked.readBytes(count, at: other * Self.grain) == [UInt8](repeating: 9, count: count))
        }
        // Also where the flipped byte isn't among those that are asked for.
        for _ in 0..<2 {
          for range in [leaf * Self.grain..<leaf * Self.grain + 1, place..<place + 1] {
            let error = await #expect(throws: BlockError.self) { try await checked.readBytes(1, at: range.lowerBound) }
            #expect(Self.isCorrupt(error) && "\(error as Any)".contains("0000.qcow2"), "\(error as Any)")
          }
        }
        await #expect(throws: BlockError.self) { try await checked.readAll() }
        #expect(disk.damages.count == before + 1, "told once")
        #expect(disk.damages.last?.range == ByteRange(disk.leafRange(leaf)))
        // It is right again.
        disk.data.image.write(([9] as [UInt8]).span.bytes, at: place)
        #expect(try await checked.readBytes(1, at: place) == [9])
      }
    }
  }

  /// A table of a file below lost its entry: a client must not skip what it takes for zeroes.
  @Test func dataThatTurnedIntoAHoleIsNeitherZeroNorReadable() async throws {
    try await LoopActor().run { _ in
      let disk = try await CheckedDisk(byteCount: 300 * Self.grain) { image in
        image.write(([7] as [UInt8]).span.bytes, at: 150 * Self.grain + 5)
      }
      disk.data.image.zero(ByteRange(offset: 150 * Self.grain, length: Self.grain), unmap: true)
      let checked = try await disk.open()
      let status = try await checked.wholeStatus(ByteRange(0..<checked.byteCount))
      #expect(status.map(\.readsAsZero) == [true, false, true])
      #expect(status.map(\.range.offset) == [0, 150 * Self.grain, 151 * Self.grain])
      #expect(disk.damages.isEmpty, "only a read can tell")
      #expect(try await checked.readBytes(1, at: 149 * Self.grain) == [0])
      let error = await #expect(throws: BlockError.self) { try await checked.readBytes(1, at: 150 * Self.grain + 99) }
      #expect(Self.isCorrupt(error) && disk.damages.count == 1)
    }
  }

  @Test func damagedPageOfHashesFailsWhatItProves() async throws {
    try await LoopActor().run { _ in
      // Two pages of leaves.
      let disk = try await CheckedDisk(byteCount: 200 * Self.grain) { image in
        for grain in 0..<200 as Range<UInt64> { image.write(([7] as [UInt8]).span.bytes, at: grain * Self.grain) }
      }
      let place = UInt64(HashFileHeader.byteCount) + 64
      var bytes = try await disk.file.readBytes(1, at: place)
      bytes[0] ^= 1
      disk.file.image.write(bytes.span.bytes, at: place)
      let checked = try await disk.open()
      #expect(try await checked.readBytes(1, at: 128 * Self.grain) == [7])
      let error = await #expect(throws: BlockError.self) { try await checked.readBytes(1, at: 5 * Self.grain) }
      #expect(Self.isCorrupt(error) && "\(error as Any)".contains("0000.hashes"), "\(error as Any)")
      #expect(disk.damages.count == 1)
    }
  }

  @Test func manyDamagesAreToldUpToABound() async throws {
    try await LoopActor().run { _ in
      let disk = try await CheckedDisk(byteCount: 100 * Self.grain) { image in
        for grain in 0..<100 as Range<UInt64> { image.write(([7] as [UInt8]).span.bytes, at: grain * Self.grain) }
      }
      for grain in 0..<100 as Range<UInt64> { disk.flip(grain * Self.grain + 9) }
      let checked = try await disk.open()
      for grain in 0..<100 as Range<UInt64> {
        await #expect(throws: BlockError.self) { try await checked.readBytes(1, at: grain * Self.grain) }
      }
      #expect(disk.damages.count == 64)
    }
  }

  /// Whatever call fails: the reader has an error or the right bytes, and no damage is told of sound files.
  @Test(arguments: [false, true])
  func storageThatFailsAtAnyCallIsNoDamage(_ isOfHashes: Bool) async throws {
    try await LoopActor().run { _ in
      let disk = try await CheckedDisk(grains: 300, tail: 1000, seed: 4)
      try await forEachFault { call in
        let (data, hashes) = (MemoryDevice(disk.data.image), MemoryDevice(disk.file.image))
        let faulty = FaultyDevice(isOfHashes ? hashes : data)
        let checked = try await disk.open(
          data: isOfHashes ? data : faulty, hashes: isOfHashes ? faulty : hashes)
        faulty.fault = Fault(atCall: call)
        for start in stride(from: 0, to: disk.data.byteCount, by: 40 * 65536 + 3) {
          let count = Int(min(200_000, disk.data.byteCount - start))
          let expected = Array(disk.model[Int(start)..<Int(start) + count])
          do throws(BlockError) {
            #expect(try await checked.readBytes(count, at: start) == expected)
          } catch {
            #expect(faulty.wasHit && !Self.isCorrupt(error), "\(error)")
            #expect(try await checked.readBytes(count, at: start) == expected)
          }
          do throws(BlockError) {
            _ = try await checked.blockStatus(ByteRange(offset: start, length: UInt64(count)), limit: 9)
          } catch {
            #expect(faulty.wasHit && !Self.isCorrupt(error), "\(error)")
          }
        }
        try await checked.close()
        return faulty.wasHit
      }
      #expect(disk.damages.isEmpty)
    }
  }
}

extension CheckedDisk {
  fileprivate func leafRange(_ leaf: UInt64) -> Range<UInt64> { HashTree(byteCount: data.byteCount).grain(leaf) }
}
