import BlockCore
import BlockTesting
import Foundation
import Testing

@testable import Qcow2

@Suite struct CreatingTests {
  static let sizes = [512, 4096, 65536, 2 << 20]

  @Test(arguments: sizes, [1, 2, 4, 8, 16, 32, 64])
  func newImageIsWhatQemuExpects(clusterByteCount: Int, refcountBits: Int) async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("image")
    try Data(count: 4096).write(to: URL(fileURLWithPath: folder.file("base.raw")))
    try await LoopActor().run { _ in
      let (file, image) = try await makeImage(
        .init(
          virtualByteCount: 1_000_448, clusterByteCount: clusterByteCount, compressionType: .zstd,
          backing: .init(name: "base.raw", format: "raw"), refcountBits: refcountBits),
        backing: .device(MemoryDevice(byteCount: 4096)))
      try await image.close()
      try file.image.dump(to: path)
    }
    let text = try Qemu.image("info", "--output=json", path)
    let found = try #require(try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
    #expect(found["virtual-size"] as? Int == 1_000_448)
    #expect(found["cluster-size"] as? Int == clusterByteCount)
    #expect(found["backing-filename"] as? String == "base.raw")
    #expect(found["backing-filename-format"] as? String == "raw")
    let details = (found["format-specific"] as? [String: Any])?["data"] as? [String: Any]
    #expect(details?["refcount-bits"] as? Int == refcountBits)
    #expect(details?["compression-type"] as? String == "zstd")
    #expect(details?["lazy-refcounts"] as? Bool == false)
    #expect(try Qemu.check(path) == .clean)
  }

  @Test(arguments: [65536, 2 << 20, 8192])
  func hugeImageIsMadeAndOpenedWithoutWritingMuch(clusterByteCount: Int) async throws {
    let folder = try TemporaryFolder()
    let sixteenTebibytes: UInt64 = 16 << 40
    try await LoopActor().run { _ in
      let (file, image) = try await makeImage(
        .init(virtualByteCount: sixteenTebibytes, clusterByteCount: clusterByteCount))
      #expect(file.calls[.write] <= 8)
      #expect(file.image.allocatedByteCount <= 3 * UInt64(clusterByteCount))
      let status = try await image.wholeStatus(ByteRange(offset: 0, length: sixteenTebibytes))
      #expect(status.count == 1)
      try await image.writeBytes([1, 2, 3], at: sixteenTebibytes - 3)
      #expect(try await image.readBytes(5, at: sixteenTebibytes - 5) == [0, 0, 1, 2, 3])
      try await image.discard(ByteRange(offset: 0, length: sixteenTebibytes))
      try await image.close()
      try file.image.dump(to: folder.file("image"))
    }
    #expect(try Qemu.check(folder.file("image")) == .clean)
  }

  /// What opening and status cost depends on the tables alone: the bytes that are read are counted.
  @Test(arguments: [false, true])
  func hugeImageIsOpenedAndItsStatusToldFromTablesAlone(isReadOnly: Bool) async throws {
    let sixteenTebibytes: UInt64 = 16 << 40
    try await LoopActor().run { _ in
      let (made, image) = try await makeImage(.init(virtualByteCount: sixteenTebibytes))
      // In 40 stretches, each mapped by a table of its own.
      // Each stretch begins a table, of 8192 entries.
      let stretch = sixteenTebibytes / 40 / (8192 << 16) * (8192 << 16)
      for number in 0..<UInt64(40) {
        try await image.writeBytes([UInt8](repeating: 1, count: 3 << 16), at: number * stretch + (5 << 16))
      }
      try await image.close()
      let file = MemoryDevice(made.image)
      let found = try await openImage(file, isReadOnly: isReadOnly)
      // Header, its first sector, refcount table, L1 table.
      #expect(file.calls[.read] <= 6)
      #expect(file.calls[.write] == 0)
      let before = file.calls[.read]
      let status = try await found.wholeStatus(ByteRange(offset: 0, length: sixteenTebibytes), limit: 1000)
      #expect(status.filter { !$0.readsAsZero }.map(\.range.length) == [UInt64](repeating: 3 << 16, count: 40))
      #expect(file.calls[.read] - before == 40)
      try await found.close()
    }
  }

  @Test func deviceOfFixedSizeIsOverwritten() async throws {
    try await LoopActor().run { _ in
      var random = SeededRandom(seed: 1)
      let memory = MemoryDevice(byteCount: 4 << 20)
      try await memory.writeBytes(random.bytes(4 << 20), at: 0)
      let device = FaultyDevice(memory, fault: Fault(atCall: 1, of: [.resize], .notSupported, .fromThenOn))
      try await Qcow2Image.create(on: device, options: .init(virtualByteCount: 8 << 20, clusterByteCount: 4096))
      let image = try await openImage(device)
      #expect(try await image.readAll().allSatisfy { $0 == 0 })
      var model = ByteModel(byteCount: 8 << 20)
      for offset in stride(from: UInt64(0), to: 2 << 20, by: 70_000) {
        try await image.writeBytes([1, 2, 3], at: offset)
        model.write([1, 2, 3], at: offset)
      }
      try await model.check(image, "on a device full of rubbish")
      // It is full in the end, and says so; what was written stays.
      var failure: BlockError.Kind?
      do throws(BlockError) {
        for offset in stride(from: UInt64(2 << 20), to: 8 << 20, by: 65536) {
          try await image.writeBytes([UInt8](repeating: 1, count: 65536), at: offset)
        }
      } catch {
        failure = error.kind
      }
      #expect(failure == .noSpace)
      try await model.check(image, ByteRange(offset: 0, length: 2 << 20), "on a full device")
      let report = try await image.check()
      #expect(report.isClean, "\(report)")
      try await image.close()
    }
  }

  @Test func optionsThatCanNotBeAreRefused() async throws {
    let refused: [Qcow2Image.CreateOptions] = [
      .init(virtualByteCount: 1000),
      .init(virtualByteCount: 1 << 63),
      .init(virtualByteCount: 1 << 20, clusterByteCount: 256),
      .init(virtualByteCount: 1 << 20, clusterByteCount: 4 << 20),
      .init(virtualByteCount: 1 << 20, clusterByteCount: 5000),
      .init(virtualByteCount: 1 << 20, refcountBits: 12),
      .init(virtualByteCount: 1 << 20, refcountBits: 128),
      .init(virtualByteCount: 16 << 40, clusterByteCount: 512),
      .init(
        virtualByteCount: 1 << 20, clusterByteCount: 512,
        backing: .init(name: .init(repeating: "x", count: 500), format: "raw")),
      .init(virtualByteCount: 1 << 20, backing: .init(name: .init(repeating: "x", count: 1024), format: "raw")),
      .init(virtualByteCount: 1 << 20, backing: .init(name: "x", format: "")),
    ]
    try await LoopActor().run { _ in
      for options in refused {
        let file = MemoryDevice(byteCount: 0)
        do {
          try await Qcow2Image.create(on: file, options: options)
          Issue.record("created with \(options)")
        } catch Qcow2Error.invalidOption {
          #expect(file.byteCount == 0)
        }
      }
    }
  }
}
