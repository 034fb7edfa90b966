import BlockCore
import BlockTesting
import Testing

@testable import Qcow2

@Suite struct BitmapStoringTests {
  /// What the caller stores is what QEMU exports, whoever made the image, again and again.
  @Test(.eachToolVersion, arguments: BitmapReadingTests.settings)
  func storedBitmapsAreThoseThatQemuExports(_ setting: BitmapReadingTests.Setting) async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("image")
    try Qemu.image(
      "create", "-q", "-f", "qcow2", "-o", "cluster_size=\(setting.clusterByteCount)", path, "\(setting.byteCount)")
    for round in 0..<3 {
      let stored = try await LoopActor().run { _ in
        var random = SeededRandom(seed: UInt64(90 + round))
        let file = MemoryDevice(try SparseImage(contentsOf: path))
        let image = try await openToKeepBitmaps(file)
        try await image.markBitmapsInUse(round == 0 ? [] : .names("dirty", "empty", "full"))
        var dirty = TestBitmap("dirty", granularity: UInt64(setting.granularity), byteCount: setting.byteCount)
        for _ in 0..<9 {
          let range = random.range(within: setting.byteCount, alignment: 512, maximum: 300_000, near: 65536)
          try await image.writeBytes(random.bytes(range.count), at: range.lowerBound)
          dirty.mark(range)
        }
        let empty = TestBitmap("empty", granularity: UInt64(setting.granularity), byteCount: setting.byteCount)
        var full = TestBitmap("full", granularity: 2 << 20, byteCount: setting.byteCount)
        full.mark(0..<setting.byteCount)
        full.isAuto = false
        try await image.changeBitmaps([.store(dirty), .store(empty), .store(full)])
        try await image.close()
        try file.image.dump(to: path)
        return [dirty, empty, full]
      }
      #expect(try Qemu.check(path) == .clean, "round \(round)")
      for bitmap in stored {
        let name = String(decoding: bitmap.name, as: UTF8.self)
        #expect(try Qemu.dirtyRanges(path, of: name) == bitmap.dirtyRanges(setting.byteCount), "\(name), \(round)")
      }
      #expect(
        try Qemu.bitmaps(path) == [
          .init(name: "dirty", granularity: setting.granularity, flags: ["auto"]),
          .init(name: "empty", granularity: setting.granularity, flags: ["auto"]),
          .init(name: "full", granularity: 2 << 20, flags: []),
        ])
    }
  }

  @Test func bitmapsAreRemovedWithoutALeakAndTheExtensionGoesWithTheLast() async throws {
    let folder = try TemporaryFolder()
    let path = try Self.image(in: folder)
    try await LoopActor().run { _ in
      let file = MemoryDevice(try SparseImage(contentsOf: path))
      let image = try await openToKeepBitmaps(file)
      try await image.changeBitmaps([.remove(name: Array("monday".utf8)), .setAuto(name: Array("tuesday".utf8), true)])
      #expect(try await image.bitmaps().entries.map(\.name) == ["tuesday"])
      #expect(try await image.bitmaps().entries.map(\.isAuto) == [true])
      try await image.close()
      try file.image.dump(to: path)
      #expect(try Qemu.check(path) == .clean)
      #expect(try Qemu.bitmaps(path).map(\.name) == ["tuesday"])
      let rest = MemoryDevice(file.image)
      let again = try await openToKeepBitmaps(rest)
      try await again.changeBitmaps([.remove(name: Array("tuesday".utf8))])
      #expect(again.header.value.contents(ofExtension: HeaderExtension.Kind.bitmaps) == nil)
      try await again.close()
      try rest.image.dump(to: path)
      #expect(try Qemu.check(path) == .clean)
      #expect(try Qemu.bitmaps(path).isEmpty)
      // Nothing stands against opening it without any policy.
      try await openImage(MemoryDevice(rest.image)).close()
    }
  }

  /// An image of QEMU's with two bitmaps, the second of which doesn't record.
  static func image(in folder: TemporaryFolder, options: String = "cluster_size=4096") throws -> String {
    let path = folder.file("image")
    try Qemu.image("create", "-q", "-f", "qcow2", "-o", options, path, "3M")
    for name in ["monday", "tuesday"] { try Qemu.image("bitmap", "--add", "-g", "4096", path, name) }
    try Qemu.io(path, ["write -P 1 0 300k", "write -P 2 1M 4k"])
    try Qemu.image("bitmap", "--disable", path, "tuesday")
    return path
  }

  @Test func nothingIsWrittenWhileAnEnabledBitmapIsNotRecorded() async throws {
    let folder = try TemporaryFolder()
    let path = try Self.image(in: folder)
    try await LoopActor().run { _ in
      let file = MemoryDevice(try SparseImage(contentsOf: path))
      await #expect(throws: Qcow2Error.self) { _ = try await openImage(file) }
      let image = try await openToKeepBitmaps(file)
      let range = ByteRange(offset: 0, length: 4096)
      func expectRefusals(_ when: String) async throws {
        await #expect(throws: BlockError.self, "\(when)") { try await image.writeBytes([1], at: 0) }
        await #expect(throws: BlockError.self, "\(when)") { try await image.writeZeroes(range, options: []) }
        await #expect(throws: BlockError.self, "\(when)") { try await image.discard(range) }
        await #expect(throws: BlockError.self, "\(when)") { try await image.resize(to: 4 << 20) }
        let bytes: [UInt8] = [1, 2, 3]
        await #expect(throws: BlockError.self, "\(when)") {
          try await image.writeCompressed([CompressedCluster(guestOffset: 0, byteCount: 3)], from: bytes.span.bytes)
        }
        #expect(try await image.readBytes(1, at: 0) == [1])
      }
      try await expectRefusals("before bitmaps are marked")
      // What doesn't record needn't be marked, and repairs change nothing that the guest sees.
      #expect(try await image.repairLeaks().isClean)
      var monday = try await TestBitmap.load("monday", from: image)
      try await image.markBitmapsInUse(.names("monday"))
      try file.image.dump(to: path)
      #expect(try Qemu.bitmaps(path).map(\.flags) == [["in-use", "auto"], []])
      try await image.writeBytes([7], at: 2 << 20)
      monday.mark(2 << 20..<(2 << 20) + 1)
      try await image.changeBitmaps([.store(monday)])
      try await expectRefusals("after they were stored")
      try await image.close()
      try file.image.dump(to: path)
      #expect(try Qemu.check(path) == .clean)
      #expect(try Qemu.dirtyRanges(path, of: "monday") == monday.dirtyRanges(3 << 20))
    }
  }

  /// The caller's own sentinel stays as it is while the caller writes.
  @Test func exemptBitmapStaysConsistentAndDoesNotRecord() async throws {
    try await LoopActor().run { _ in
      let (file, made) = try await makeImage(.init(virtualByteCount: 3 << 20, clusterByteCount: 4096))
      try await made.close()
      let image = try await openToKeepBitmaps(MemoryDevice(file.image))
      let witness = TestBitmap("witness", granularity: 65536, byteCount: 3 << 20)
      try await image.markBitmapsInUse([], leaving: .names("witness"))
      try await image.changeBitmaps([.store(witness)])
      try await image.writeBytes([7], at: 0)
      #expect(try await TestBitmap.load("witness", from: image) == witness)
      try await image.close()
    }
  }

  /// What only its maker understands is in the new directory as it was in the old one, until it is removed.
  @Test func whatIsNotUnderstoodIsKeptByteForByte() async throws {
    let folder = try TemporaryFolder()
    let path = try Self.image(in: folder)
    try await LoopActor().run { _ in
      var file = try SparseImage(contentsOf: path)
      let header = try await Qcow2Header.read(from: MemoryDevice(file), pool: pool)
      let directory = try #require(try header.bitmapDirectory())
      let second = directory.offset + 32
      // Flags, type, granularity, and five bytes of the name as extra data.
      file.put(UInt32(0x8000_0004), at: second + 12)
      file.put(UInt16(0x0728), at: second + 16)
      file.put(UInt16(2), at: second + 18)
      file.put(UInt32(5), at: second + 20)
      let device = MemoryDevice(file)
      let before = try await device.readBytes(32, at: second)
      let image = try await openToKeepBitmaps(device)
      let entry = try #require(try await image.bitmaps().entries.last)
      #expect(!entry.isUnderstood && entry.name == "ay")
      await #expect(throws: BlockError.self) { _ = try await image.table(of: entry) }
      await #expect(throws: BlockError.self) { try await image.markBitmapsInUse([entry.nameBytes]) }
      await #expect(throws: BlockError.self) {
        try await image.changeBitmaps([.setAuto(name: entry.nameBytes, true)])
      }
      await #expect(throws: BlockError.self) {
        try await image.changeBitmaps([.store(TestBitmap("ay", granularity: 512, byteCount: 3 << 20))])
      }
      try await image.changeBitmaps([.store(TestBitmap("new", granularity: 512, byteCount: 3 << 20))])
      let moved = try #require(try image.header.value.bitmapDirectory())
      #expect(moved.offset != directory.offset)
      #expect(try await device.readBytes(32, at: moved.offset + 32) == before)
      #expect(try await image.check().leakCount == 0)
      try await image.changeBitmaps([.remove(name: entry.nameBytes)])
      #expect(try await image.bitmaps().entries.map(\.name) == ["monday", "new"])
      try await image.close()
      try device.image.dump(to: path)
      #expect(try Qemu.check(path) == .clean)
    }
  }

  /// Bitmaps that a program without them left behind are shown, and count for nothing.
  @Test func untrustedBitmapsAreDroppedByTheNextDirectory() async throws {
    let folder = try TemporaryFolder()
    let path = try Self.image(in: folder)
    try await LoopActor().run { _ in
      var file = try SparseImage(contentsOf: path)
      file.put(UInt64(0), at: 88)
      let device = MemoryDevice(file)
      let image = try await openToKeepBitmaps(device)
      #expect(try await image.bitmaps().areTrusted == false)
      #expect(try await image.bitmaps().entries.map(\.name) == ["monday", "tuesday"])
      await #expect(throws: BlockError.self) { try await image.markBitmapsInUse(.names("monday")) }
      try await image.writeBytes([9], at: 0)
      var new = TestBitmap("monday", granularity: 4096, byteCount: 3 << 20)
      new.mark(0..<1)
      try await image.changeBitmaps([.store(new)])
      #expect(try await image.bitmaps().entries.map(\.name) == ["monday"])
      try await image.close()
      try device.image.dump(to: path)
      let verdict = try Qemu.check(path)
      #expect(verdict.corruptions == 0 && verdict.leaks > 0)
      #expect(try Qemu.dirtyRanges(path, of: "monday") == [0..<4096])
      let leaking = MemoryDevice(device.image)
      let repaired = try await openToKeepBitmaps(leaking)
      #expect(try await repaired.repairLeaks().isClean)
      try await repaired.close()
      try leaking.image.dump(to: path)
      #expect(try Qemu.check(path) == .clean)
    }
  }

  @Test func impossibleBitmapsAreRefusedAndNothingChanges() async throws {
    let folder = try TemporaryFolder()
    let path = try Self.image(in: folder)
    try await LoopActor().run { _ in
      let device = MemoryDevice(try SparseImage(contentsOf: path))
      let image = try await openToKeepBitmaps(device)
      var failing = TestBitmap("failing", granularity: 512, byteCount: 3 << 20)
      failing.failure = 0
      let good = TestBitmap("good", granularity: 512, byteCount: 3 << 20)
      for bitmap in [
        TestBitmap("", granularity: 512, byteCount: 3 << 20), TestBitmap("fine", granularity: 256, byteCount: 3 << 20),
        TestBitmap("odd", granularity: 1536, byteCount: 3 << 20),
        TestBitmap("coarse", granularity: 1 << 32, byteCount: 3 << 20),
        TestBitmap(String(repeating: "n", count: 1024), granularity: 512, byteCount: 3 << 20), failing,
      ] {
        await #expect(throws: BlockError.self) { try await image.changeBitmaps([.store(good), .store(bitmap)]) }
      }
      for change in [BitmapChange.remove(name: [1]), .setAuto(name: [1], true)] {
        await #expect(throws: BlockError.self) { try await image.changeBitmaps([.store(good), change]) }
      }
      #expect(try await image.bitmaps().entries.map(\.name) == ["monday", "tuesday"])
      try await image.close()
      try device.image.dump(to: path)
      #expect(try Qemu.check(path) == .clean)
    }
  }
}

extension BitmapStoringTests {
  /// Repairs count what bitmaps take, whatever the bitmaps are worth, and change none of them.
  @Test(arguments: ["consistent", "in use", "untrusted"])
  func repairsLeaveBitmapsAsTheyAre(_ kind: String) async throws {
    let folder = try TemporaryFolder()
    let path = try Self.image(in: folder)
    try await LoopActor().run { _ in
      var file = try SparseImage(contentsOf: path)
      let header = try await Qcow2Header.read(from: MemoryDevice(file), pool: pool)
      let directory = try #require(try header.bitmapDirectory())
      let block = file.integer(at: header.refcountTableOffset)
      let bits = file.integer(at: file.integer(at: directory.offset)) & L2Entry.offsetMask
      if kind == "in use" { file.put(UInt32(3), at: directory.offset + 12) }
      if kind == "untrusted" { file.put(UInt64(0), at: 88) }
      // The last writer hadn't written its counts: those of bits are 0, and others too high.
      file.put(UInt64(1), at: 72)
      file.put(UInt16(0), at: block + bits / header.clusterByteCount * 2)
      file.put(UInt16(3), at: block + directory.offset / header.clusterByteCount * 2)
      let before = try await openImage(MemoryDevice(file), isReadOnly: true)
      let monday = try await TestBitmap.load("monday", from: before)
      #expect(!monday.dirtyRanges(3 << 20).isEmpty)
      let device = MemoryDevice(file)
      let image = try await openToKeepBitmaps(device)
      #expect(image.repairedAtOpening == 2)
      #expect(try await image.bitmaps().areTrusted == (kind != "untrusted"))
      #expect(try await TestBitmap.load("monday", from: image) == monday)
      #expect(try await image.repairRefcounts().isClean)
      #expect(try await image.repairLeaks().isClean)
      #expect(try await TestBitmap.load("monday", from: image) == monday)
      try await image.close()
      #expect(try await Qcow2Header.read(from: MemoryDevice(device.image), pool: pool).incompatible == [])
    }
  }
}
