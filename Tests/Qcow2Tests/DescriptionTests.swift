import BlockCore
import BlockTesting
import Buffers
import Testing

@testable import Qcow2

/// Whatever an image holds, its description is bounded, and says where it was cut.
@Suite struct DescriptionTests {
  private static let clusterByteCount: UInt64 = 65536
  private static let tablesOffset = 8 * clusterByteCount

  /// A sound, empty image of 1 MiB whose header is changed, with `tables` at ``tablesOffset``.
  nonisolated(nonsending)
    private static func image(
      tables: [UInt8], _ change: (inout Qcow2Header) -> Void
    ) async throws -> SparseImage
  {
    let (device, image) = try await makeImage(.init(virtualByteCount: 1 << 20))
    try await image.close()
    var file = device.image
    var header = try await Qcow2Header.read(from: MemoryDevice(file), pool: pool)
    change(&header)
    let bytes = try header.encoded()
    file.write(bytes.span.bytes, at: 0)
    let end = tablesOffset + UInt64(tables.count)
    file.resize(to: (end + clusterByteCount - 1) / clusterByteCount * clusterByteCount)
    file.write(tables.span.bytes, at: tablesOffset)
    return file
  }

  /// An image with bitmaps of these names: empty, with a table of one entry each.
  nonisolated(nonsending)
    private static func image(bitmaps names: [[UInt8]]) async throws -> SparseImage
  {
    var directory: [UInt8] = []
    for name in names {
      directory.append(bigEndian: UInt64(0))
      directory.append(bigEndian: UInt32(1))
      directory.append(bigEndian: UInt32(2))
      directory += [1, 16]
      directory.append(bigEndian: UInt16(name.count))
      directory.append(bigEndian: UInt32(0))
      directory += name
      directory += [UInt8](repeating: 0, count: (8 - directory.count % 8) % 8)
    }
    var contents: [UInt8] = []
    contents.append(bigEndian: UInt32(names.count))
    contents.append(bigEndian: UInt32(0))
    contents.append(bigEndian: UInt64(directory.count))
    contents.append(bigEndian: tablesOffset)
    return try await image(tables: directory) { header in
      header.extensions.append(HeaderExtension(type: HeaderExtension.Kind.bitmaps, contents: contents))
      header.autoclear.insert(.bitmaps)
    }
  }

  /// An image with snapshots of these ids and names, without tables of their own.
  nonisolated(nonsending)
    private static func image(snapshots: [(id: [UInt8], name: [UInt8])]) async throws -> SparseImage
  {
    var table: [UInt8] = []
    for snapshot in snapshots {
      table.append(bigEndian: UInt64(0))
      table.append(bigEndian: UInt32(0))
      table.append(bigEndian: UInt16(snapshot.id.count))
      table.append(bigEndian: UInt16(snapshot.name.count))
      table += [UInt8](repeating: 0, count: 20)
      table.append(bigEndian: UInt32(16))
      table += [UInt8](repeating: 0, count: 16)
      table += snapshot.id + snapshot.name
      table += [UInt8](repeating: 0, count: (8 - table.count % 8) % 8)
    }
    return try await image(tables: table) { header in
      header.snapshotCount = snapshots.count
      header.snapshotsOffset = tablesOffset
    }
  }

  nonisolated(nonsending)
    private static func describe(_ file: SparseImage) async throws -> Qcow2Description
  {
    try await Qcow2Description.read(from: MemoryDevice(file), pool: pool)
  }

  @Test(arguments: [1, 999, 1000, 1001, 65535])
  func listsEndAfterAThousandEntries(count: Int) async throws {
    try await LoopActor().run { _ in
      let names = (0..<count).map { Array("b\($0)".utf8) }
      let kept = min(count, 1000)
      let bitmaps = try await Self.describe(try await Self.image(bitmaps: names))
      #expect(bitmaps.bitmaps.map(\.name) == (0..<kept).map { "b\($0)" })
      #expect(bitmaps.isTruncated == (count > 1000) && bitmaps.snapshots.isEmpty)
      let snapshots = try await Self.describe(try await Self.image(snapshots: names.map { ($0, $0) }))
      #expect(snapshots.snapshots.map(\.id) == (0..<kept).map { "b\($0)" })
      #expect(snapshots.isTruncated == (count > 1000) && snapshots.bitmaps.isEmpty)
    }
  }

  /// The bytes of a name may be none that UTF-8 knows: then a replacement of three bytes stands for each.
  @Test(arguments: [UInt8(1), UInt8(ascii: "n"), 0xff])
  func namesTogetherAreBounded(byte: UInt8) async throws {
    try await LoopActor().run { _ in
      let names = [[UInt8]](repeating: [UInt8](repeating: byte, count: 1023), count: 1000)
      let perName = byte == 0xff ? 3069 : 1023
      let bitmaps = try await Self.describe(try await Self.image(bitmaps: names))
      #expect(bitmaps.bitmaps.count == (256 << 10) / perName && bitmaps.isTruncated)
      #expect(bitmaps.bitmaps.allSatisfy { $0.name.utf8.count == perName })
      let snapshots = try await Self.describe(try await Self.image(snapshots: names.map { ([], $0) }))
      #expect(snapshots.snapshots.count == (256 << 10) / perName && snapshots.isTruncated)
    }
  }

  @Test func longNamesAreCut() async throws {
    try await LoopActor().run { _ in
      func name(_ count: Int) -> [UInt8] { [UInt8](repeating: UInt8(ascii: "x"), count: count) }
      for (count, isCut) in [(1023, false), (1024, true), (65535, true)] {
        let bitmaps = try await Self.describe(try await Self.image(bitmaps: [name(count), name(1)]))
        #expect(bitmaps.bitmaps.map(\.name.utf8.count) == [1023, 1] && bitmaps.isTruncated == isCut)
        let snapshots = try await Self.describe(try await Self.image(snapshots: [(name(1), name(count))]))
        #expect(snapshots.snapshots.map(\.name.utf8.count) == [1023] && snapshots.isTruncated == isCut)
      }
      for (count, isCut) in [(128, false), (129, true), (65535, true)] {
        let snapshots = try await Self.describe(try await Self.image(snapshots: [(name(count), name(2))]))
        #expect(snapshots.snapshots.map(\.id.utf8.count) == [128] && snapshots.isTruncated == isCut)
        #expect(snapshots.snapshots.map(\.name.utf8.count) == [2])
      }
    }
  }

  /// What goes through all entries finds the last one, wherever the pieces end that a directory is read in.
  @Test func everyBitmapIsRead() async throws {
    try await LoopActor().run { _ in
      var random = SeededRandom(seed: 24)
      let names = (0..<4000).map { _ in random.bytes(random.oneIn(50) ? 60_000 : random.below(300)) }
      let file = try await Self.image(bitmaps: names)
      let header = try await Qcow2Header.read(from: MemoryDevice(file), pool: pool)
      var reader = try #require(try BitmapDirectoryReader(header, MemoryDevice(file), pool))
      for name in names {
        let bitmap = try #require(try await reader.next())
        #expect(bitmap.nameByteCount == name.count)
        #expect(bitmap.name == String(decoding: name.prefix(1023), as: UTF8.self), "\(random)")
      }
      #expect(try await reader.next() == nil)
    }
  }

  @Test func findingsHaveShortNames() async throws {
    try await LoopActor().run { _ in
      func found(_ file: SparseImage) async throws -> Qcow2CheckReport {
        try await openImage(MemoryDevice(file), isReadOnly: true).check()
      }
      let name = [UInt8](repeating: 1, count: 1000)
      let bitmaps = try await found(try await Self.image(bitmaps: [name]))
      #expect(bitmaps.corruptionCount > 0 && bitmaps.isTruncated)
      #expect(bitmaps.findings.allSatisfy { $0.place.utf8.count < 200 }, "\(bitmaps)")
      let many = try await found(try await Self.image(bitmaps: [[UInt8]](repeating: [98], count: 300)))
      #expect(many.isTruncated && many.findings.count == Qcow2CheckReport.maximumFindings)
      let few = try await found(try await Self.image(bitmaps: [[98]]))
      #expect(few.corruptionCount > 0 && !few.isTruncated, "\(few)")
    }
  }

  /// The image's own names for its features go into answers: each bit has one.
  @Test func featureNamesAreBounded() async throws {
    try await LoopActor().run { _ in
      let names = [FeatureName](repeating: FeatureName(.compatible, 5, String(repeating: "f", count: 46)), count: 1300)
      let file = try await Self.image(tables: []) { header in
        header.extensions = [
          HeaderExtension(type: HeaderExtension.Kind.featureNames, contents: FeatureName.encode(names))
        ]
        header.compatibleBits = .max
      }
      let description = try await Self.describe(file)
      #expect(description.header.featureNames.count == 192 && description.features.count == 64)
    }
  }
}
