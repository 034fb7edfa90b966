import BlockCore
import BlockTesting
import Testing

@testable import Qcow2

@Suite struct BitmapReadingTests {
  struct Setting: Sendable, CustomTestStringConvertible {
    var clusterByteCount: Int
    var granularity: Int
    var byteCount: UInt64
    var testDescription: String { "clusters \(clusterByteCount), granularity \(granularity), \(byteCount) bytes" }
  }

  static let settings = [
    Setting(clusterByteCount: 512, granularity: 512, byteCount: 5 << 20),
    Setting(clusterByteCount: 512, granularity: 64 << 10, byteCount: (3 << 20) + 512),
    Setting(clusterByteCount: 4096, granularity: 4096, byteCount: (300 << 20) - 1536),
    Setting(clusterByteCount: 65536, granularity: 65536, byteCount: 40 << 30),
    Setting(clusterByteCount: 65536, granularity: 512, byteCount: (600 << 20) + 512),
    Setting(clusterByteCount: 2 << 20, granularity: 2 << 20, byteCount: 9 << 20),
    Setting(clusterByteCount: 2 << 20, granularity: 512, byteCount: (20 << 20) + 512),
  ]

  /// Writes by chance at the ends and in the midst of the disk, as commands of qemu-io.
  static func writes(_ random: inout SeededRandom, within byteCount: UInt64, count: Int) -> [String] {
    (0..<count).map { number in
      let range = random.range(within: byteCount, alignment: 512, maximum: 200_000, near: 65536)
      let start = number == 0 ? byteCount - UInt64(range.count) : number == 1 ? 0 : range.lowerBound
      return "write \(random.oneIn(3) ? "-z" : "-P 7") \(start) \(range.count)"
    }
  }

  @Test(.eachToolVersion, arguments: settings)
  func bitsAreThoseThatQemuExports(_ setting: Setting) async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("image")
    var random = SeededRandom(seed: 71)
    let granularity = "\(setting.granularity)"
    try Qemu.image(
      "create", "-q", "-f", "qcow2", "-o", "cluster_size=\(setting.clusterByteCount)", path, "\(setting.byteCount)")
    try Qemu.image("bitmap", "--add", "-g", granularity, path, "monday")
    try Qemu.io(path, Self.writes(&random, within: setting.byteCount, count: 12))
    try Qemu.image("bitmap", "--add", "-g", granularity, path, "tuesday")
    try Qemu.image("bitmap", "--disable", path, "monday")
    try Qemu.io(path, Self.writes(&random, within: setting.byteCount, count: 12))
    try Qemu.image("bitmap", "--add", "--disable", "-g", granularity, path, "both")
    try Qemu.image("bitmap", "--merge", "monday", "--merge", "tuesday", path, "both")
    try Qemu.image("bitmap", "--add", "-g", granularity, path, "empty")
    try Qemu.image("bitmap", "--merge", "both", "--clear", path, "empty")
    try await LoopActor().run { [random] _ in
      let image = try await openFile(path)
      let bitmaps = try await image.bitmaps()
      #expect(bitmaps.areTrusted)
      #expect(bitmaps.entries.map(\.name) == ["monday", "tuesday", "both", "empty"])
      #expect(bitmaps.entries.map(\.isAuto) == [false, true, false, true])
      for entry in bitmaps.entries {
        let ours = try await image.dirtyRanges(of: entry.name)
        #expect(try ours == Qemu.dirtyRanges(path, of: entry.name), "\(entry.name), \(random)")
        #expect(ours.isEmpty == (entry.name == "empty"))
        #expect(try await image.table(of: entry).fit == .exact)
      }
    }
  }

  /// A table may say of whole clusters that all their bits are 1: those behind the end of the disk aren't.
  @Test func bitsOfOnesEndWithTheDisk() async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("image")
    try Qemu.image("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, "3M")
    try Qemu.image("bitmap", "--add", "-g", "512", path, "monday")
    try Qemu.io(path, ["write 0 1M"])
    var file = try SparseImage(contentsOf: path)
    let header = try await Qcow2Header.read(from: MemoryDevice(file), pool: pool)
    let directory = try #require(try header.bitmapDirectory())
    file.put(UInt64(1), at: file.integer(at: directory.offset) + 8)
    try file.dump(to: path)
    try await LoopActor().run { [file] _ in
      let image = try await openImage(MemoryDevice(file), isReadOnly: true)
      let entry = try #require(try await image.bitmaps().entries.first)
      let table = try await image.table(of: entry)
      #expect((0..<table.clusterCount).map { table[$0] } == [.mixed, .ones])
      #expect(
        try await image.bitsOfCluster(1, of: table) == [UInt8](repeating: 255, count: 256)
          + [UInt8](repeating: 0, count: 256))
      #expect(try await image.dirtyRanges(of: "monday") == Qemu.dirtyRanges(path, of: "monday"))
    }
  }

  struct Damage: Sendable, CustomTestStringConvertible {
    let testDescription: String
    /// Where the text differs that tells what is wrong.
    let message: String
    let apply: @Sendable (_ file: inout SparseImage, _ entry: UInt64, _ table: UInt64) -> Void
  }

  static let damages = [
    Damage(testDescription: "flag", message: "flags 0x6") { file, entry, _ in file.put(UInt32(6), at: entry + 12) },
    Damage(testDescription: "type", message: "type 2") { file, entry, _ in file.put(UInt8(2), at: entry + 16) },
    Damage(testDescription: "granularity", message: "granularity of 256") { file, entry, _ in
      file.put(UInt8(8), at: entry + 17)
    },
    Damage(testDescription: "no name", message: "name of 0") { file, entry, _ in file.put(UInt16(0), at: entry + 18) },
    Damage(testDescription: "extra data", message: "extra data") { file, entry, _ in
      file.put(UInt16(0), at: entry + 18)
      file.put(UInt32(6), at: entry + 20)
    },
    Damage(testDescription: "table past the end", message: "where none can be") { file, entry, _ in
      file.put(UInt64(1) << 40, at: entry)
    },
    Damage(testDescription: "table beside a cluster", message: "a table at") { file, entry, table in
      file.put(table + 512, at: entry)
    },
    Damage(testDescription: "table is the header", message: "a table at 0") { file, entry, _ in
      file.put(UInt64(0), at: entry)
    },
    Damage(testDescription: "table is the L1 table", message: "where none can be") { file, entry, _ in
      file.put(file.integer(at: 40), at: entry)
    },
    Damage(testDescription: "endless table", message: "entries") { file, entry, _ in
      file.put(UInt32.max, at: entry + 8)
    },
    Damage(testDescription: "bits past the end", message: "entry 0 of its table") { file, _, table in
      file.put(UInt64(1) << 40, at: table)
    },
    Damage(testDescription: "bits in the refcount table", message: "entry 0 of its table") { file, _, table in
      file.put(file.integer(at: 48), at: table)
    },
    Damage(testDescription: "reserved bit", message: "entry 0 of its table") { file, _, table in
      file.put(file.integer(at: table) | 2, at: table)
    },
  ]

  @Test(arguments: damages)
  func damageIsNamedAndNothingIsRead(_ damage: Damage) async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("image")
    try Qemu.image("create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", path, "3M")
    try Qemu.image("bitmap", "--add", path, "monday")
    try Qemu.io(path, ["write 0 1M"])
    try await LoopActor().run { _ in
      var file = try SparseImage(contentsOf: path)
      let header = try await Qcow2Header.read(from: MemoryDevice(file), pool: pool)
      let directory = try #require(try header.bitmapDirectory())
      damage.apply(&file, directory.offset, file.integer(at: directory.offset))
      let image = try await openImage(MemoryDevice(file), isReadOnly: true)
      let entry = try #require(try await image.bitmaps().entries.first)
      let error = await #expect(throws: BlockError.self) { _ = try await image.table(of: entry) }
      #expect("\(error.map { "\($0)" } ?? "")".contains(damage.message), "\(String(describing: error))")
    }
  }

  @Test func twoBitmapsOfOneNameAreDamage() async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("image")
    try Qemu.image("create", "-q", "-f", "qcow2", path, "3M")
    for name in ["monday", "tuesda"] { try Qemu.image("bitmap", "--add", path, name) }
    try await LoopActor().run { _ in
      var file = try SparseImage(contentsOf: path)
      let header = try await Qcow2Header.read(from: MemoryDevice(file), pool: pool)
      let directory = try #require(try header.bitmapDirectory())
      file.write(Array("monday".utf8).span.bytes, at: directory.offset + 32 + 24)
      let image = try await openImage(MemoryDevice(file), isReadOnly: true)
      await #expect(throws: BlockError.self) { _ = try await image.bitmaps() }
    }
  }
}
