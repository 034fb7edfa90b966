import BlockCore
import BlockTesting
import Testing

@testable import Qcow2

/// What QEMU's own tests ask of an implementation of the format.
@Suite struct QemuRulesTests {
  @Test func subclusterBitmapOfCompressedClusterIsIgnored() async throws {
    try await LoopActor().run { _ in
      let image = try await JudgedImage(.subclusters)
      let expected = try await image.open(image.file).readAll()
      var file = image.file
      DamageTests.store(0xffff_ffff_0000_0001, at: image.l2 + 8, in: &file)
      #expect(try await image.open(file).readAll() == expected)
      let device = MemoryDevice(file)
      let writable = try await openImage(device)
      try await writable.writeBytes([7], at: 100)
      try await writable.close()
      var changed = expected
      changed[100] = 7
      #expect(try await image.open(device.image).readAll() == changed)
      #expect(try image.verdict(on: device.image)?.corruptions == 0)
    }
  }

  @Test(arguments: [UInt32(2), 3])
  func unalignedZeroesOverZeroesAllocateNothing(version: UInt32) async throws {
    let folder = try TemporaryFolder()
    try await LoopActor().run { _ in
      let path = folder.file("image")
      try Qemu.image("create", "-q", "-f", "raw", folder.file("backing"), "1M")
      try Qemu.image(
        "create", "-q", "-f", "qcow2", "-o", "compat=\(version == 2 ? "0.10" : "1.1"),cluster_size=4096", "-b",
        folder.file("backing"), "-F", "raw", path)
      let device = MemoryDevice(try SparseImage(contentsOf: path))
      // The backing file holds data in one cluster only.
      let backing = MemoryDevice(byteCount: 1 << 20)
      try await backing.writeBytes([UInt8](repeating: 5, count: 4096), at: 512 << 10)
      let image = try await openImage(device, backing: .device(backing))
      let used = image.refcounts.usedEnd
      for range in [ByteRange(offset: 512, length: 1024), ByteRange(offset: 102_912, length: 2048)] {
        try await image.writeZeroes(range, options: .onlyIfFast)
        try await image.writeZeroes(range, options: [])
      }
      try await image.flush()
      #expect(image.refcounts.usedEnd == used && image.map.l1.allSatisfy { $0.raw == 0 })
      // Over data they are written, and nothing around them changes.
      try await image.writeZeroes(ByteRange(offset: 523_776, length: 1024), options: [])
      let bytes = try await image.readBytes(8192, at: 520_192)
      #expect(bytes == [UInt8](repeating: 0, count: 4608) + [UInt8](repeating: 5, count: 3584))
      try await image.close()
    }
  }

  @Test func imageThatWasNotClosedTellsWhatOpeningPutRight() async throws {
    try await LoopActor().run { _ in
      let image = try await JudgedImage(.plain)
      var file = image.file
      DamageTests.store(1, at: 72, in: &file)
      let block = file.integer(at: image.header.refcountTableOffset)
      let wrong: [UInt8] = [0, 3]
      file.write(wrong.span.bytes, at: block + image.l2 / 4096 * 2)
      #expect(try await openImage(MemoryDevice(image.file)).repairedAtOpening == nil)
      #expect(try await image.open(file).repairedAtOpening == nil)
      #expect(try await openImage(MemoryDevice(file)).repairedAtOpening == 1)
    }
  }
}
