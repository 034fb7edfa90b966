import BlockCore
import BlockTesting
import Foundation
import Testing

@testable import Qcow2

/// Whatever is done to an image, its internal snapshots stay what they were.
@Suite struct SnapshotTests {
  static let variants = ["cluster_size=512", "cluster_size=4096", "cluster_size=16384,extended_l2=on"]
  static let byteCount: UInt64 = 512 << 10

  /// An image that shares most of its clusters, compressed ones too, with a snapshot.
  private static func make(_ options: String, _ folder: TemporaryFolder) throws -> (path: String, bytes: [UInt8]) {
    let path = folder.file("image.qcow2")
    try Qemu.image("create", "-q", "-f", "qcow2", "-o", options, path, "\(byteCount)")
    try Qemu.io(path, ["write -c -P 2 0 64k", "write -P 1 96k 150k", "write -z 160k 40k", "write -P 3 300k 2k"])
    try Qemu.image("snapshot", "-c", "before", path)
    return (path, try Qemu.guestBytes(path))
  }

  /// The image as it was at its first snapshot: the header names the snapshot's L1 table as the active one.
  nonisolated(nonsending)
    private static func reverted(_ file: SparseImage) async throws -> Qcow2Image
  {
    let device = MemoryDevice(file)
    let header = try await Qcow2Header.read(from: device, pool: pool)
    var snapshots = SnapshotTableReader(header, device, pool)
    let snapshot = try #require(try await snapshots.next())
    var bytes: [UInt8] = []
    bytes.append(bigEndian: UInt32(snapshot.l1EntryCount))
    bytes.append(bigEndian: snapshot.l1Offset)
    let fields = bytes
    device.image.write(fields.span.bytes, at: 36)
    return try await openImage(device, isReadOnly: true)
  }

  nonisolated(nonsending)
    private static func step(_ image: Qcow2Image, _ model: inout ByteModel, _ random: inout SeededRandom) async throws
  {
    let cluster = image.clusterByteCount
    let near = random.oneIn(2) ? cluster : max(cluster / 32, 512)
    let range = random.range(within: byteCount, alignment: 512, maximum: 40_000, near: near)
    switch random.below(6) {
    case 0...2:
      let bytes = random.bytes(range.count)
      model.write(bytes, at: range.lowerBound)
      try await image.writeBytes(bytes, at: range.lowerBound)
    case 3:
      model.zero(ByteRange(range))
      try await image.writeZeroes(ByteRange(range), options: random.oneIn(2) ? .mayUnmap : [])
    case 4:
      model.zero(ByteRange(try await image.discardable(range)))
      try await image.discard(ByteRange(range))
    default: try await image.flush()
    }
  }

  @Test(arguments: variants)
  func snapshotIsTheSameAfterEveryCut(options: String) async throws {
    let folder = try TemporaryFolder()
    let (path, before) = try Self.make(options, folder)
    try await LoopActor().run { _ in
      let start = try SparseImage(contentsOf: path)
      let stride = max(1, 5 / TestEffort.factor)
      var call = 1
      var isOver = false
      while !isOver {
        let device = CrashPointDevice(start)
        device.crash(atCall: call)
        let image = try await openImage(device, cacheByteCount: 32 << 10)
        var model = ByteModel(byteCount: Self.byteCount)
        model.write(before, at: 0)
        var random = SeededRandom(seed: 31)
        do {
          for _ in 0..<25 { try await Self.step(image, &model, &random) }
          try await image.close()
        } catch {}
        isOver = !device.isCut
        for (number, disk) in device.durableImages(seed: UInt64(call), count: 2).enumerated() {
          let what = "\(random), cut at call \(call), disk \(number)"
          #expect(try await Self.reverted(disk.image).readAll() == before, "\(what)")
          let report = try await openImage(disk, isReadOnly: true).check()
          #expect(report.corruptionCount == 0, "\(what): \(report)")
        }
        call += stride
      }
      #expect(call > 20)
    }
  }

  /// The count of a table that the image shares with its snapshot says that only one of them uses it.
  @Test func sharedTableWhoseCountIsTooLowStaysTheSnapshots() async throws {
    let folder = try TemporaryFolder()
    let (path, before) = try Self.make("cluster_size=4096", folder)
    try await LoopActor().run { _ in
      var file = try SparseImage(contentsOf: path)
      let header = try await Qcow2Header.read(from: MemoryDevice(file), pool: pool)
      let table = file.integer(at: header.l1Offset) & L2Entry.offsetMask
      let block = file.integer(at: header.refcountTableOffset)
      let one: [UInt8] = [0, 1]
      file.write(one.span.bytes, at: block + table / 4096 * 2)
      let device = MemoryDevice(file)
      let image = try await openImage(device)
      try await image.writeBytes([1, 2, 3], at: 300 << 10)
      do throws(BlockError) {
        try await image.flush()
        Issue.record("flushed")
      } catch {
        #expect("\(error)".contains("lower than its use"))
      }
      await #expect(throws: BlockError.self) { try await image.writeBytes([4], at: 0) }
      try? await image.close()
      #expect(try await Self.reverted(device.image).readAll() == before)
    }
  }

  @Test(.eachToolVersion, arguments: variants)
  func qemuRevertsToTheSnapshotThatWeWorkedBeside(options: String) async throws {
    let folder = try TemporaryFolder()
    let (path, before) = try Self.make(options, folder)
    for round in 0..<2 {
      let start = ByteModel(bytes: try Qemu.guestBytes(path))
      let after = try await LoopActor().run { _ in
        var model = start
        var random = SeededRandom(seed: UInt64(40 + round))
        let file = MemoryDevice(try SparseImage(contentsOf: path))
        let image = try await openImage(file)
        for _ in 0..<60 { try await Self.step(image, &model, &random) }
        try await model.check(image, "\(random)")
        let report = try await image.check()
        #expect(report.isClean, "\(report)")
        try await image.close()
        try file.image.dump(to: path)
        return model.bytes
      }
      #expect(try Qemu.check(path) == .clean)
      #expect(try Qemu.guestBytes(path) == after)
      try Qemu.image("snapshot", "-c", "round \(round)", path)
    }
    try Qemu.image("snapshot", "-a", "before", path)
    #expect(try Qemu.guestBytes(path) == before)
    #expect(try Qemu.check(path) == .clean)
    try Qemu.image("snapshot", "-d", "before", path)
    #expect(try Qemu.check(path) == .clean)
  }
}

extension ByteModel {
  fileprivate init(bytes: [UInt8]) {
    self.init(byteCount: UInt64(bytes.count))
    write(bytes, at: 0)
  }
}
