import BlockCore
import BlockTesting
import Testing

@testable import Qcow2

/// Each damaged image has its error, which names the place; none is made worse.
@Suite struct DamagedImageTests {
  @Test func damagedHeadersAreRefusedByName() async throws { try await examine(DamagedImage.headers) }
  @Test func damagedTablesAreErrorsThatNameThem() async throws { try await examine(DamagedImage.tables) }
  @Test func damagedExtensionsOfTheFormatAreErrorsToo() async throws { try await examine(DamagedImage.others) }

  private func examine(_ images: [DamagedImage]) async throws {
    let folder = try TemporaryFolder()
    try await LoopActor().run { _ in
      var bases: [DamagedImage.Base: (SparseImage, DamagedImage.Places)] = [:]
      for image in images {
        let sound: (file: SparseImage, places: DamagedImage.Places)
        if let made = bases[image.base] { sound = made } else { sound = try await Self.make(image.base, folder) }
        bases[image.base] = sound
        var file = sound.file
        image.damage(&file, sound.places)
        do { try await Self.examine(image, file, folder) } catch { Issue.record("\(image.name): \(error)") }
      }
    }
  }

  nonisolated(nonsending)
    private static func examine(_ damaged: DamagedImage, _ file: SparseImage, _ folder: TemporaryFolder) async throws
  {
    let name = damaged.name
    switch damaged.expectation {
    case .open(let text):
      await refused(name, text) { _ = try await openImage(MemoryDevice(file), isReadOnly: true) }
    case .openToWrite(let text):
      try await openImage(MemoryDevice(file), isReadOnly: true).close()
      await refused(name, text) { _ = try await openImage(MemoryDevice(file)) }
    case .read(let text):
      try await fails(name, text, file, isReadOnly: true) { _ = try await $0.readBytes(100, at: $1 + 7) }
    case .write(let text):
      try await fails(name, text, file) { try await $0.writeBytes([1, 2, 3], at: $1 + 7) }
    case .zero(let text):
      try await fails(name, text, file) { image, cluster in
        try await image.writeZeroes(
          ByteRange(offset: cluster, length: UInt64(image.clusterByteCount)), options: .mayUnmap)
        try await image.flush()
      }
    case .writeNew(let text):
      try await fails(name, text, file) { image, _ in
        try await image.writeBytes([UInt8](repeating: 1, count: 10000), at: image.byteCount - 20000)
      }
    case .corruption(let text):
      #expect(try await found(file).contains { $0.kind == .corruption && $0.place.contains(text) }, "\(name)")
    case .leak(let text):
      #expect(try await found(file).contains { $0.kind == .leak && $0.place.contains(text) }, "\(name)")
    }
    if damaged.isJudgedByQemu { try await judge(name, file, folder) }
  }

  nonisolated(nonsending)
    private static func refused(_ name: String, _ text: String, _ open: nonisolated(nonsending) () async throws -> Void)
    async
  {
    do {
      try await open()
      Issue.record("\(name): opened")
    } catch let error as Qcow2Error {
      #expect("\(error)".contains(text), "\(name): \(error)")
    } catch {
      Issue.record("\(name): \(error)")
    }
  }

  /// The operation fails, naming the place, and nothing in the file has changed; further tries fail as well.
  nonisolated(nonsending)
    private static func fails(
      _ name: String, _ text: String, _ file: SparseImage, isReadOnly: Bool = false,
      _ operation: nonisolated(nonsending) (Qcow2Image, UInt64) async throws -> Void
    ) async throws
  {
    let device = MemoryDevice(file)
    let image = try await openImage(device, isReadOnly: isReadOnly)
    let second = UInt64(image.clusterByteCount) * (image.map.format.hasSubclusters ? 1 : 2)
    for number in 0..<2 {
      do {
        try await operation(image, second)
        Issue.record("\(name): succeeded")
      } catch let error as BlockError {
        #expect("\(error)".contains(text) || (number > 0 && error.kind == .latchedFailed), "\(name): \(error)")
      }
    }
    _ = try? await image.check()
    try? await image.close()
    let whole = Int(min(file.byteCount, device.byteCount))
    let before = MemoryDevice(file).readBytes(whole, atOfClosed: 0)
    let after = device.readBytes(whole, atOfClosed: 0)
    if let place = before.indices.first(where: { before[$0] != after[$0] }) {
      Issue.record("\(name): changed at \(place)")
    }
  }

  nonisolated(nonsending)
    private static func found(_ file: SparseImage) async throws -> [Qcow2CheckReport.Finding]
  {
    let image = try await openImage(MemoryDevice(file), isReadOnly: true)
    do throws(BlockError) {
      return try await image.check().findings
    } catch {
      return [.init(kind: .corruption, place: "\(error)")]
    }
  }

  /// Where QEMU opens the image too, it finds corruption if and only if we do, and as many leaks as we. Of
  /// corruptions it counts some twice, and goes on into tables that are damaged.
  nonisolated(nonsending)
    private static func judge(_ name: String, _ file: SparseImage, _ folder: TemporaryFolder) async throws
  {
    guard let image = try? await openImage(MemoryDevice(file), isReadOnly: true) else { return }
    guard let report = try? await image.check() else { return }
    try file.dump(to: folder.file("judged"))
    guard let verdict = try? Qemu.check(folder.file("judged")) else { return }
    #expect((report.corruptionCount > 0) == (verdict.corruptions > 0), "\(name): \(report), QEMU: \(verdict)")
    // QEMU takes a table that doesn't begin a cluster for two clusters in use.
    if name != "L2 table misaligned" {
      #expect(report.leakCount == verdict.leaks, "\(name): \(report), \(verdict)")
    }
  }

  // MARK: Sound images

  nonisolated(nonsending)
    private static func make(_ base: DamagedImage.Base, _ folder: TemporaryFolder) async throws
    -> (SparseImage, DamagedImage.Places)
  {
    let file = try await makeFile(base, folder)
    let device = MemoryDevice(file)
    let header = try await Qcow2Header.read(from: device, pool: pool)
    let l2 = DamageTests.integer(try await device.readBytes(8, at: header.l1Offset))
    let block = DamageTests.integer(try await device.readBytes(8, at: header.refcountTableOffset))
    let places = DamagedImage.Places(
      l1: header.l1Offset, l2: l2 & L2Entry.offsetMask, table: header.refcountTableOffset, block: block,
      snapshots: header.snapshotsOffset, end: file.byteCount)
    return (file, places)
  }

  nonisolated(nonsending)
    private static func makeFile(_ base: DamagedImage.Base, _ folder: TemporaryFolder) async throws -> SparseImage
  {
    let path = folder.file("base")
    switch base {
    case .plain: return try await plainImage()
    case .version2:
      try Qemu.image("create", "-q", "-f", "qcow2", "-o", "compat=0.10,cluster_size=4096", path, "8M")
      try Qemu.io(path, ["write -P 1 0 32k"])
    case .subclusters:
      try Qemu.image("create", "-q", "-f", "qcow2", "-o", "extended_l2=on,cluster_size=16384", path, "8M")
      try Qemu.io(path, ["write -P 1 0 64k"])
    case .snapshots:
      try Qemu.image("create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", path, "8M")
      try Qemu.io(path, ["write -P 1 0 32k"])
      try Qemu.image("snapshot", "-c", "one", path)
      try Qemu.io(path, ["write -P 2 0 32k"])
    case .bitmaps:
      try Qemu.image("create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", path, "8M")
      try Qemu.image("bitmap", "--add", path, "monday")
    }
    return try SparseImage(contentsOf: path)
  }

  /// 8 MiB in clusters of 4 KiB, which four L2 tables map, of which one exists: a compressed cluster, then data.
  nonisolated(nonsending)
    private static func plainImage() async throws -> SparseImage
  {
    let (file, image) = try await makeImage(.init(virtualByteCount: 8 << 20, clusterByteCount: 4096))
    let compressor = try ClusterCompressor(type: .zlib, clusterByteCount: 4096)
    var output = [UInt8](repeating: 0, count: 4096)
    let count = compress([UInt8](repeating: 1, count: 4096), compressor, &output) ?? 0
    let packed = Array(output[..<count])
    try await image.writeBytes([UInt8](repeating: 2, count: 50_000), at: 8192)
    try await image.writeCompressed([.init(guestOffset: 0, byteCount: count)], from: packed.span.bytes)
    try await image.close()
    return file.image
  }
}
