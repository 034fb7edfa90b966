import BlockCore
import BlockTesting
import Foundation
import Testing

@testable import Qcow2

/// Images whose guest data lie in a file of their own.
@Suite struct DataFileTests {
  @Test(.eachToolVersion, arguments: ["", ",data_file_raw=on"])
  func imageWithoutItsDataFileIsRefusedByName(options: String) async throws {
    let folder = try TemporaryFolder()
    let (path, data) = (folder.file("image"), folder.file("data"))
    try Qemu.image("create", "-q", "-f", "qcow2", "-o", "data_file=\(data)\(options)", path, "1M")
    try Qemu.io(path, ["write -P 3 100k 100k"])
    let expected = try Qemu.guestBytes(path)
    try await LoopActor().run { _ in
      let file = try SparseImage(contentsOf: path)
      #expect(try await Qcow2Description.read(from: MemoryDevice(file), pool: pool).externalDataFile == data)
      do {
        _ = try await openImage(MemoryDevice(file), isReadOnly: true)
        Issue.record("opened without its data file")
      } catch Qcow2Error.dataFileMissing(let name) {
        #expect(name == data)
      }
      let resolver = DataFileSource.resolve { name in MemoryDevice(try SparseImage(contentsOf: name)) }
      let image = try await openImage(MemoryDevice(file), isReadOnly: true, dataFile: resolver)
      #expect(try await image.readAll() == expected)
      let report = try await image.check()
      #expect(report.isClean, "\(report)")
      try await image.close()
      struct Refusal: Error {}
      do {
        _ = try await openImage(MemoryDevice(file), dataFile: .resolve { _ in throw Refusal() })
        Issue.record("opened with a data file that can't be opened")
      } catch Qcow2Error.dataFileFailed(let name, let cause) {
        #expect(name == data && cause is Refusal)
      }
      var options = MemoryDevice.Options()
      options.isReadOnly = true
      let readOnly = MemoryDevice(try SparseImage(contentsOf: data), options: options)
      await #expect(throws: Qcow2Error.self) {
        _ = try await openImage(MemoryDevice(file), dataFile: .device(readOnly))
      }
    }
  }

  /// The data file is flushed before the tables that name its clusters are written.
  @Test func mappingIsNeverDurableBeforeTheData() async throws {
    let folder = try TemporaryFolder()
    let (path, data) = (folder.file("image"), folder.file("data"))
    try Qemu.image("create", "-q", "-f", "qcow2", "-o", "data_file=\(data),cluster_size=4096", path, "1M")
    try await LoopActor().run { _ in
      let dataFile = CrashPointDevice(try SparseImage(contentsOf: data))
      let file = MemoryDevice(try SparseImage(contentsOf: path))
      let image = try await openImage(file, dataFile: .device(dataFile))
      var model = ByteModel(byteCount: 1 << 20)
      var random = SeededRandom(seed: 5)
      for _ in 0..<20 {
        let range = random.range(within: 1 << 20, alignment: 512, maximum: 60_000, near: 4096)
        let bytes = random.bytes(range.count)
        try await image.writeBytes(bytes, at: range.lowerBound)
        model.write(bytes, at: range.lowerBound)
        try await image.flush()
        // Power goes now: nothing of the data file may be missing.
        for disk in dataFile.durableImages(seed: 1, count: 1) {
          let found = try await openImage(MemoryDevice(file.image), isReadOnly: true, dataFile: .device(disk))
          try await model.check(found, "\(random)")
        }
      }
      await #expect(throws: BlockError.self) {
        try await image.writeCompressed([.init(guestOffset: 0, byteCount: 1)], from: [UInt8(1)].span.bytes)
      }
      try await image.close()
    }
  }

  @Test(.eachToolVersion, arguments: [false, true])
  func rawDataFileAlwaysHoldsTheGuestsBytes(resizes: Bool) async throws {
    let folder = try TemporaryFolder()
    let (path, data) = (folder.file("image"), folder.file("data"))
    try Qemu.image(
      "create", "-q", "-f", "qcow2", "-o", "data_file=\(data),data_file_raw=on,cluster_size=4096", path, "1M")
    let model = try await LoopActor().run { _ in
      let dataFile = MemoryDevice(try SparseImage(contentsOf: data))
      let file = MemoryDevice(try SparseImage(contentsOf: path))
      let image = try await openImage(file, dataFile: .device(dataFile))
      var model = ByteModel(byteCount: 1 << 20)
      var random = SeededRandom(seed: 6)
      for step in 0..<60 {
        let range = random.range(within: 1 << 20, alignment: 512, maximum: 60_000, near: 4096)
        switch random.below(3) {
        case 0:
          try await image.writeZeroes(ByteRange(range), options: random.oneIn(2) ? .mayUnmap : [])
          model.zero(ByteRange(range))
        case 1:
          model.zero(ByteRange(try await image.discardable(range)))
          try await image.discard(ByteRange(range))
        default:
          let bytes = random.bytes(range.count)
          try await image.writeBytes(bytes, at: range.lowerBound)
          model.write(bytes, at: range.lowerBound)
        }
        if resizes, step == 40 {
          try await image.resize(to: (1 << 20) + 70_144)
          model.resize(to: (1 << 20) + 70_144)
        }
        try await model.check(MemoryDevice(dataFile.image), "the data file at step \(step)")
      }
      #expect(image.header.value.autoclear.contains(.rawExternalData))
      try await image.close()
      try file.image.dump(to: path)
      try dataFile.image.dump(to: data)
      return model.bytes
    }
    #expect(try Qemu.check(path) == .clean)
    #expect(try Qemu.guestBytes(path) == model)
  }
}
