import BlockCore
import BlockTesting
import Testing

@testable import Qcow2

@Suite struct BitmapResizingTests {
  private static let small: UInt64 = 3 << 20

  /// A bitmap that doesn't record and one that is exempt follow the disk; the one in use is the caller's.
  nonisolated(nonsending)
    private static func image(_ clusterByteCount: Int, byteCount small: UInt64 = small) async throws -> SparseImage
  {
    let (file, made) = try await makeImage(.init(virtualByteCount: small, clusterByteCount: clusterByteCount))
    try await made.close()
    let device = MemoryDevice(file.image)
    let image = try await openToKeepBitmaps(device)
    var rest = TestBitmap("rest", granularity: 512, byteCount: small)
    rest.isAuto = false
    rest.mark(small - 5000..<small)
    rest.mark(0..<70_000)
    var live = TestBitmap("live", granularity: 512, byteCount: small)
    live.mark(1 << 20..<(1 << 20) + 1)
    try await image.changeBitmaps([.store(rest), .store(live)])
    try await image.close()
    return device.image
  }

  @Test(.eachToolVersion, arguments: [512, 4096, 65536], [7 << 20, 5 << 19, 512] as [UInt64])
  func consistentBitmapsFollowTheSize(_ clusterByteCount: Int, _ newByteCount: UInt64) async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("image")
    let (rest, live) = try await LoopActor().run { _ in
      let device = MemoryDevice(try await Self.image(clusterByteCount))
      let image = try await openToKeepBitmaps(device)
      let before = try await TestBitmap.load("rest", from: image)
      try await image.markBitmapsInUse(.names("live"))
      try await image.resize(to: newByteCount)
      // Whatever happens now, QEMU opens the image: what is in use may have any length.
      try device.image.dump(to: path)
      #expect(try Qemu.bitmaps(path).map(\.flags) == [[], ["in-use", "auto"]])
      var stored = TestBitmap("live", granularity: 512, byteCount: newByteCount)
      stored.mark(0..<min(newByteCount, 4096))
      try await image.changeBitmaps([.store(stored)])
      try await image.close()
      try device.image.dump(to: path)
      return (before, stored)
    }
    #expect(try Qemu.check(path) == .clean)
    #expect(try Qemu.dirtyRanges(path, of: "live") == live.dirtyRanges(newByteCount))
    #expect(try Qemu.dirtyRanges(path, of: "rest") == rest.dirtyRanges(min(newByteCount, Self.small)))
  }

  @Test func powerLossAtAnyCallLeavesSizeAndBitmapsThatFit() async throws {
    let folder = try TemporaryFolder()
    try await LoopActor().run { _ in
      let file = try await Self.image(512)
      func story(_ device: any BlockDevice) async throws {
        let image = try await openToKeepBitmaps(device)
        do {
          try await image.markBitmapsInUse(.names("live"))
          try await image.resize(to: 7 << 20)
          try await image.resize(to: 2 << 20)
        } catch {
          try? await image.close()
          throw error
        }
        try await image.close()
      }
      let whole = CrashPointDevice(file)
      try await story(whole)
      for call in 1...whole.changingCalls {
        let device = CrashPointDevice(file)
        device.crash(atCall: call)
        try? await story(device)
        for (number, found) in device.durableImages(seed: UInt64(call), count: 4).enumerated() {
          let image = try await openToKeepBitmaps(found)
          for entry in try await image.bitmaps().entries where !entry.isInUse {
            #expect(try await image.table(of: entry).fit == .exact, "call \(call), image \(number)")
          }
          let rest = try await image.dirtyRanges(of: "rest")
          #expect(rest.first == 0..<70_144 && rest.count == (image.byteCount < Self.small ? 1 : 2), "call \(call)")
          #expect(try await image.check().corruptionCount == 0, "call \(call), image \(number)")
          if call % 20 == 0, number == 2 {
            try found.image.dump(to: folder.file("image"))
            #expect(try Qemu.check(folder.file("image")).corruptions == 0, "call \(call)")
          }
        }
      }
    }
  }

  @Test(.eachToolVersion) func bitmapsOfAnImageThatQemuResizedFit() async throws {
    let folder = try TemporaryFolder()
    let path = try BitmapStoringTests.image(in: folder)
    for size in ["300M", "2M"] {
      try Qemu.image("resize", "-q", "--shrink", path, size)
      try await LoopActor().run { _ in
        let image = try await openFile(path)
        for entry in try await image.bitmaps().entries {
          #expect(try await image.table(of: entry).fit == .exact, "\(size) \(entry.name)")
          #expect(try await image.dirtyRanges(of: entry.name) == Qemu.dirtyRanges(path, of: entry.name))
        }
      }
    }
  }

  /// A program that doesn't know bitmaps, and doesn't clear their bit, leaves tables of another length: they are read
  /// as far as they go, and stored again.
  @Test(arguments: [BitmapTable.Fit.shorter, .longer])
  func tablesOfAnotherLengthAreToldAndPutRight(_ fit: BitmapTable.Fit) async throws {
    let folder = try TemporaryFolder()
    try await LoopActor().run { _ in
      // A cluster of bits stands for 16 MiB, an L2 table for 2.
      let old: UInt64 = fit == .shorter ? 3 << 20 : 40 << 20
      let size: UInt64 = fit == .shorter ? 40 << 20 : 3 << 20
      var file = try await Self.image(4096, byteCount: old)
      file.put(size, at: 24)
      file.put(UInt32(20), at: 36)
      let device = MemoryDevice(file)
      let image = try await openToKeepBitmaps(device)
      var bitmaps: [TestBitmap] = []
      for entry in try await image.bitmaps().entries {
        #expect(try await image.table(of: entry).fit == fit)
        bitmaps.append(try await TestBitmap.load(entry.name, from: image))
      }
      try await image.markBitmapsInUse(.names("live", "rest"))
      for index in bitmaps.indices { bitmaps[index].mark(min(old, size)..<size) }
      try await image.changeBitmaps(bitmaps.map { .store($0) })
      try await image.close()
      try device.image.dump(to: folder.file("image"))
      for bitmap in bitmaps {
        let name = String(decoding: bitmap.name, as: UTF8.self)
        #expect(try Qemu.dirtyRanges(folder.file("image"), of: name) == bitmap.dirtyRanges(size))
      }
    }
  }

  @Test func whatCannotFollowKeepsTheSize() async throws {
    try await LoopActor().run { _ in
      let image = try await openToKeepBitmaps(MemoryDevice(try await Self.image(65536)))
      try await image.markBitmapsInUse(.names("live"))
      // 512 MiB of bits for 512 bytes each are 2 TiB.
      let error = await #expect(throws: BlockError.self) { try await image.resize(to: 4 << 40) }
      #expect(error?.kind == .notSupported && error?.cause?.contains("rest") == true)
      #expect(image.byteCount == Self.small)
      try await image.changeBitmaps([.remove(name: Array("rest".utf8))])
      try await image.resize(to: 4 << 40)
      try await image.close()
    }
  }
}
