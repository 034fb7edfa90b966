import BlockCore
import BlockTesting
import Testing

@testable import Qcow2

/// Tables that an image names past the end of its file never come to lie in what the guest wrote.
@Suite struct TablesPastTheEndTests {
  enum Table: String, CaseIterable, Sendable { case l2, refcountBlock, snapshotL2 }

  /// How far behind the end the table is said to be, in clusters: growing the file by any step reaches them.
  private static let distances: [UInt64] = [0, 1, 3, 2000]

  /// A sound image, and where the first unused entry of the table stands that would name the other one.
  nonisolated(nonsending)
    private static func sound(
      _ table: Table, clusterByteCount: UInt64, _ folder: TemporaryFolder
    ) async throws -> (file: SparseImage, entry: UInt64)
  {
    let path = folder.file("image")
    try Qemu.image("create", "-q", "-f", "qcow2", "-o", "cluster_size=\(clusterByteCount)", path, "8M")
    try Qemu.io(path, ["write -P 1 0 20k"])
    if table == .snapshotL2 { try Qemu.image("snapshot", "-c", "one", path) }
    var file = try SparseImage(contentsOf: path)
    file.resize(to: (file.byteCount + clusterByteCount - 1) / clusterByteCount * clusterByteCount)
    let header = try await Qcow2Header.read(from: MemoryDevice(file), pool: pool)
    let first =
      switch table {
      case .l2: header.l1Offset
      case .refcountBlock: header.refcountTableOffset
      case .snapshotL2: file.integer(at: header.snapshotsOffset)
      }
    var entry = first
    while file.integer(at: entry) != 0 { entry += 8 }
    return (file, entry)
  }

  @Test(arguments: Table.allCases, [UInt64(512), 4096])
  func theFileIsNeverChanged(table: Table, clusterByteCount: UInt64) async throws {
    let folder = try TemporaryFolder()
    try await LoopActor().run { _ in
      let (sound, entry) = try await Self.sound(table, clusterByteCount: clusterByteCount, folder)
      for distance in Self.distances {
        var file = sound
        let flag: UInt64 = table == .refcountBlock ? 0 : L2Entry.copiedFlag
        DamageTests.store(flag | (sound.byteCount + distance * clusterByteCount), at: entry, in: &file)
        let device = MemoryDevice(file)
        await #expect(throws: (any Error).self, "\(table), \(distance) clusters behind the end") {
          let image = try await openImage(device)
          try await image.writeBytes([UInt8](repeating: 2, count: 3 << 20), at: 4 << 20)
        }
        #expect(device.byteCount == file.byteCount)
        #expect(
          device.readBytes(Int(file.byteCount), atOfClosed: 0)
            == MemoryDevice(file).readBytes(Int(file.byteCount), atOfClosed: 0))
        let image = try await openImage(MemoryDevice(file), isReadOnly: true)
        #expect(try await image.check().corruptionCount > 0)
        #expect(try await image.readBytes(20 << 10, at: 0) == [UInt8](repeating: 1, count: 20 << 10))
      }
    }
  }
}
