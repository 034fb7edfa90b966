import BlockCore
import BlockTesting
import Foundation
import Testing

@testable import Qcow2

/// Bitmaps that QEMU's versions and we record by turns: none of the changes is lost, whoever made it.
@Suite struct BitmapAlternationTests {
  struct Setting: Sendable, CustomTestStringConvertible {
    var options: String
    var granularities: [Int]
    var byteCount: UInt64 = 5 << 20
    var testDescription: String { "\(options), \(granularities)" }
  }

  static let settings = [
    Setting(options: "cluster_size=512", granularities: [512, 65536]),
    Setting(options: "cluster_size=4096,refcount_bits=1", granularities: [4096, 512, 2 << 20]),
    Setting(options: "cluster_size=65536", granularities: [65536, 4096]),
    Setting(options: "cluster_size=65536,extended_l2=on,refcount_bits=64", granularities: [2048]),
    Setting(options: "cluster_size=2M,compression_type=zstd", granularities: [2 << 20, 512], byteCount: 9 << 20),
  ]

  /// What each bitmap has to hold.
  private struct Model: Sendable {
    let byteCount: UInt64
    var bitmaps: [TestBitmap] = []

    mutating func mark(_ range: Range<UInt64>) {
      for index in bitmaps.indices where bitmaps[index].isAuto { bitmaps[index].mark(range) }
    }
  }

  @Test(arguments: settings)
  func noChangeIsLostInAnyAlternation(_ setting: Setting) async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("image")
    var random = SeededRandom(seed: 515)
    try Qemu.image("create", "-q", "-f", "qcow2", "-o", setting.options, path, "\(setting.byteCount)")
    var model = Model(byteCount: setting.byteCount)
    for round in 0..<(6 * TestEffort.factor) {
      let moment = "round \(round), \(random)"
      if round % 2 == 0 {
        try ToolVersion.$current.withValue(.ofTurn(round / 2)) {
          try Self.byQemu(path, setting, &model, &random, round)
        }
      } else {
        model = try await LoopActor().run { [model, random] _ in try await Self.byUs(path, model, random, round) }
        _ = random.next()
      }
      #expect(try Qemu.check(path) == .clean, "\(moment)")
      for bitmap in model.bitmaps {
        let name = String(decoding: bitmap.name, as: UTF8.self)
        #expect(try Qemu.dirtyRanges(path, of: name) == bitmap.dirtyRanges(setting.byteCount), "\(moment), \(name)")
      }
      let states = try Qemu.bitmaps(path)
      #expect(states.map(\.name) == model.bitmaps.map { String(decoding: $0.name, as: UTF8.self) }, "\(moment)")
      #expect(states.map(\.flags) == model.bitmaps.map { $0.isAuto ? ["auto"] : [] }, "\(moment)")
    }
  }

  private static func byQemu(
    _ path: String, _ setting: Setting, _ model: inout Model, _ random: inout SeededRandom, _ round: Int
  ) throws {
    let granularity = setting.granularities[round / 2 % setting.granularities.count]
    try Qemu.image("bitmap", "--add", "-g", "\(granularity)", path, "qemu\(round)")
    model.bitmaps.append(TestBitmap("qemu\(round)", granularity: UInt64(granularity), byteCount: model.byteCount))
    var commands: [String] = []
    for _ in 0..<6 {
      let range = random.range(within: model.byteCount, alignment: 512, maximum: 200_000, near: 65536)
      commands.append("write \(random.oneIn(3) ? "-z" : "-P 7") \(range.lowerBound) \(range.count)")
      model.mark(range)
    }
    try Qemu.io(path, commands)
    let index = random.below(model.bitmaps.count)
    let name = String(decoding: model.bitmaps[index].name, as: UTF8.self)
    switch random.below(4) {
    case 0:
      try Qemu.image("bitmap", "--clear", path, name)
      model.bitmaps[index].bytes = model.bitmaps[index].bytes.map { _ in 0 }
    case 1:
      try Qemu.image("bitmap", model.bitmaps[index].isAuto ? "--disable" : "--enable", path, name)
      model.bitmaps[index].isAuto.toggle()
    case 2 where model.bitmaps.count > 3:
      try Qemu.image("bitmap", "--remove", path, name)
      model.bitmaps.remove(at: index)
    default: break
    }
  }

  nonisolated(nonsending)
    private static func byUs(
      _ path: String, _ start: Model, _ random: SeededRandom, _ round: Int
    ) async throws -> Model
  {
    var random = random
    var model = start
    let file = MemoryDevice(try SparseImage(contentsOf: path))
    let image = try await openToKeepBitmaps(file)
    // What we load is what QEMU stored: the rest of the story goes by it.
    for index in model.bitmaps.indices {
      let loaded = try await TestBitmap.load(String(decoding: model.bitmaps[index].name, as: UTF8.self), from: image)
      #expect(loaded == model.bitmaps[index], "round \(round), \(random)")
    }
    let recorded = model.bitmaps.filter(\.isAuto).map(\.name)
    try await image.markBitmapsInUse(Set(recorded))
    for _ in 0..<6 {
      let range = random.range(within: model.byteCount, alignment: 512, maximum: 200_000, near: 65536)
      if random.oneIn(3) {
        try await image.writeZeroes(ByteRange(range), options: .mayUnmap)
      } else {
        try await image.writeBytes(random.bytes(range.count), at: range.lowerBound)
      }
      model.mark(range)
    }
    var new = TestBitmap("ours\(round)", granularity: 512 << UInt64(random.below(9)), byteCount: model.byteCount)
    new.mark(0..<UInt64(random.below(Int(model.byteCount))))
    new.isAuto = !random.oneIn(3)
    var changes = model.bitmaps.filter { recorded.contains($0.name) }.map { BitmapChange.store($0) }
    if model.bitmaps.count > 4, random.oneIn(2) { changes.append(.remove(name: model.bitmaps.remove(at: 1).name)) }
    model.bitmaps.append(new)
    try await image.changeBitmaps(changes + [.store(new)])
    try await image.close()
    try file.image.dump(to: path)
    return model
  }

  /// A QEMU that is killed leaves what it had opened in use: inconsistent, and only good for being removed.
  @Test(.eachToolVersion, arguments: ["qemu-nbd", "qemu-storage-daemon"])
  func whatAKilledQemuLeavesIsInconsistent(_ program: String) async throws {
    let folder = try TemporaryFolder()
    let path = try BitmapStoringTests.image(in: folder)
    try kill(program, serving: path, folder)
    try await LoopActor().run { _ in
      let file = MemoryDevice(try SparseImage(contentsOf: path))
      let image = try await openToKeepBitmaps(file)
      #expect(try await image.bitmaps().areTrusted)
      #expect(try await image.bitmaps().entries.map(\.isInUse) == [true, true])
      await #expect(throws: BlockError.self) { try await image.markBitmapsInUse(.names("monday")) }
      let stored = TestBitmap("monday", granularity: 4096, byteCount: 3 << 20)
      await #expect(throws: BlockError.self) { try await image.changeBitmaps([.store(stored)]) }
      await #expect(throws: BlockError.self) { try await image.changeBitmaps([.setAuto(name: stored.name, false)]) }
      // They stand against no write.
      try await image.writeBytes([8], at: 0)
      try await image.changeBitmaps([.remove(name: stored.name), .store(stored)])
      try await image.close()
      try file.image.dump(to: path)
    }
    #expect(try Qemu.bitmaps(path).map(\.flags) == [["in-use"], ["auto"]])
    #expect(try Qemu.check(path).corruptions == 0)
    #expect(try Qemu.dirtyRanges(path, of: "monday").isEmpty)
  }

  /// Has a program of QEMU's serve an image to be written, has a client write, and kills the program.
  private func kill(_ program: String, serving path: String, _ folder: TemporaryFolder) throws {
    let socket = folder.file("socket")
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments =
      [ToolVersion.current.path(of: program)]
      + (program == "qemu-nbd"
        ? ["-t", "-f", "qcow2", "-k", socket, path]
        : [
          "--blockdev", "qcow2,node-name=disk,file.driver=file,file.filename=\(path)",
          "--nbd-server", "addr.type=unix,addr.path=\(socket)",
          "--export", "nbd,id=disk,node-name=disk,writable=on,name=",
        ])
    process.standardInput = FileHandle.nullDevice
    try process.run()
    defer {
      // The versions' own scripts end in exec: this is the program itself.
      _ = Glibc.kill(process.processIdentifier, SIGKILL)
      process.waitUntilExit()
    }
    let deadline = ContinuousClock.now + .seconds(20)
    while !FileManager.default.fileExists(atPath: socket) {
      guard ContinuousClock.now < deadline, process.isRunning else {
        throw Qemu.Failure(description: "\(program) doesn't come up")
      }
      usleep(20_000)
    }
    let (status, output) = try Qemu.run(
      "qemu-io", ["-f", "raw", "-c", "write -P 6 2M 4k", "nbd+unix:///?socket=\(socket)"])
    guard status == 0 else { throw Qemu.Failure(description: output) }
  }
}
