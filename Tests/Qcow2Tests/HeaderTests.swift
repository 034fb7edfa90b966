import BlockCore
import BlockTesting
import Foundation
import Testing

@testable import Qcow2

/// The header codec, and what opening refuses.
@Suite struct HeaderTests {
  static func header() -> Qcow2Header {
    var header = Qcow2Header()
    header.virtualByteCount = 1 << 30
    header.l1EntryCount = 2
    header.l1Offset = 3 << 16
    header.refcountTableOffset = 1 << 16
    header.refcountTableClusterCount = 1
    header.backingName = Array("lower/disk.qcow2".utf8)
    header.extensions = [
      HeaderExtension(type: HeaderExtension.Kind.backingFormat, contents: Array("qcow2".utf8)),
      HeaderExtension(type: HeaderExtension.Kind.featureNames, contents: FeatureName.encode(FeatureName.known)),
      HeaderExtension(type: 0x1234_5678, contents: [1, 2, 3]),
    ]
    return header
  }

  @Test func encodedHeaderDecodesToItself() throws {
    var header = Self.header()
    header.additionalFields = Array(repeating: 0, count: 7) + [5, 6, 7, 8, 0, 0, 0, 0]
    header.compatibleBits = 1
    header.autoclear = .init(rawValue: 1 << 40)
    header.compressionType = .zstd
    header.incompatible = .compressionType
    let bytes = try header.encoded()
    let padded = bytes + [UInt8](repeating: 0, count: 65536 - bytes.count)
    #expect(try Qcow2Header(decoding: padded.span.bytes) == header)
  }

  /// Every prefix of a header is refused or understood; never more is read than is there.
  @Test func truncatedHeaderIsRefused() throws {
    let bytes = try Self.header().encoded()
    for count in 0..<104 {
      let part = Array(bytes[..<count])
      #expect(throws: Qcow2Error.self) { try Qcow2Header(decoding: part.span.bytes) }
    }
  }

  static let refusals: [(String, @Sendable (inout Qcow2Header) -> Void, String)] = [
    ("LUKS", { $0.encryption = .luks }, "LUKS"),
    ("AES", { $0.encryption = .aes }, "AES"),
    ("unknown bit", { $0.incompatible.insert(.init(rawValue: 1 << 9)) }, "bit 9"),
    (
      "named bit",
      {
        $0.incompatible.insert(.init(rawValue: 1 << 9))
        $0.extensions[1].contents += FeatureName.encode([FeatureName(.incompatible, 9, "time travel")])
      }, "time travel"
    ),
    ("L1 too long", { $0.l1EntryCount = 4_194_305 }, "L1 table"),
    ("L1 too short", { $0.virtualByteCount = 1 << 40 }, "too few"),
    ("L1 misaligned", { $0.l1Offset += 512 }, "L1 table"),
    ("L1 past the end", { $0.l1Offset = 1 << 50 }, "past the end"),
    ("L1 wraps", { $0.l1Offset = .max << 16 }, "past the end"),
    ("refcount table too long", { $0.refcountTableClusterCount = 129 }, "refcount table"),
    ("no refcount table", { $0.refcountTableClusterCount = 0 }, "refcount table"),
    ("refcount table past the end", { $0.refcountTableOffset = 1 << 40 }, "past the end"),
    ("refcount order", { $0.refcountOrder = 7 }, "refcount_order"),
    ("odd size", { $0.virtualByteCount += 1 }, "multiple of 512"),
    ("negative size", { $0.virtualByteCount = 1 << 63 }, "multiple of 512"),
    ("cluster bits", { $0.clusterBits = 22 }, "cluster_bits"),
    ("compression without bit", { $0.compressionType = .zstd }, "compression type"),
    ("bit without compression", { $0.incompatible.insert(.compressionType) }, "compression type"),
    ("snapshots", { $0.snapshotCount = 65537 }, "snapshots"),
    (
      "backing format", { $0.extensions[0].contents = Array(repeating: 1, count: 16) },
      "backing file format is 16 bytes"
    ),
    (
      "data file name",
      {
        $0.extensions.append(
          HeaderExtension(type: HeaderExtension.Kind.externalDataFile, contents: Array(repeating: 1, count: 4096)))
      }, "data file name is 4096 bytes"
    ),
  ]

  @Test(arguments: refusals.indices)
  func refusalNamesTheReason(index: Int) async throws {
    let (name, change, reason) = Self.refusals[index]
    try await LoopActor().run { _ in
      var header = Self.header()
      header.backingName = nil
      change(&header)
      let file = MemoryDevice(byteCount: 1 << 20)
      let bytes = try header.encoded()
      try await file.writeBytes(bytes, at: 0)
      do {
        _ = try await openImage(file, isReadOnly: true)
        Issue.record("\(name): opened")
      } catch let error as Qcow2Error {
        #expect("\(error)".contains(reason), "\(name): \(error)")
      }
    }
  }

  @Test func whatCanNotBeKeptRightOpensReadOnlyAlone() async throws {
    let changes: [(@Sendable (inout Qcow2Header) -> Void, String)] = [
      ({ $0.incompatible.insert(.corrupt) }, "marked corrupt"),
      (
        {
          let contents: [UInt8] = [0, 0, 0, 1] + [UInt8](repeating: 0, count: 20)
          $0.extensions.append(HeaderExtension(type: HeaderExtension.Kind.bitmaps, contents: contents))
        }, "dirty bitmaps"
      ),
    ]
    try await LoopActor().run { _ in
      for (change, reason) in changes {
        let (file, image) = try await makeImage(.init(virtualByteCount: 1 << 20))
        try await image.close()
        var header = try await Qcow2Header.read(from: MemoryDevice(file.image), pool: pool)
        change(&header)
        let bytes = try header.encoded()
        file.image.write(bytes.span.bytes, at: 0)
        try await openImage(MemoryDevice(file.image), isReadOnly: true).close()
        do {
          _ = try await openImage(MemoryDevice(file.image))
          Issue.record("\(reason): opened read-write")
        } catch Qcow2Error.notWritable(let text) {
          #expect(text.contains(reason))
        }
      }
    }
  }

  @Test(.eachToolVersion) func qemuImagesThatAreNotSupportedAreRefusedByName() async throws {
    let folder = try TemporaryFolder()
    let secret = folder.file("secret")
    try Data("key".utf8).write(to: URL(fileURLWithPath: secret))
    try Qemu.image(
      "create", "-q", "-f", "qcow2", "--object", "secret,id=s,file=\(secret)", "-o",
      "encrypt.format=aes,encrypt.key-secret=s", folder.file("aes"), "1M")
    try await LoopActor().run { _ in
      // LUKS isn't made by qemu-img here: it measures the processor first, and gives up on a busy one. The images differ
      // in the method, which is all that is looked at.
      for (method, feature) in [(UInt8(1), "AES"), (2, "LUKS")] {
        let file = MemoryDevice(try SparseImage(contentsOf: folder.file("aes")))
        try await file.writeBytes([method], at: 35)
        do {
          _ = try await openImage(file, isReadOnly: true)
          Issue.record("\(feature): opened")
        } catch Qcow2Error.unsupportedFeature(let text) {
          #expect(text.contains(feature))
        }
        let description = try await Qcow2Description.read(from: file, pool: pool)
        #expect(description.header.virtualByteCount == 1 << 20)
      }
    }
  }

  @Test(.eachToolVersion) func descriptionListsSnapshotsAndBitmaps() async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("image")
    try Qemu.image("create", "-q", "-f", "qcow2", path, "1M")
    for number in 1...12 { try Qemu.image("snapshot", "-c", "state \(number)", path) }
    try Qemu.image("bitmap", "--add", "-g", "32768", path, "b0")
    try Qemu.image("bitmap", "--add", "--disable", path, "monday")
    try await LoopActor().run { _ in
      let file = MemoryDevice(try SparseImage(contentsOf: path))
      let description = try await Qcow2Description.read(from: file, pool: pool)
      #expect(description.snapshots.map(\.name) == (1...12).map { "state \($0)" })
      #expect(description.snapshots.map(\.id) == (1...12).map { "\($0)" })
      #expect(description.snapshots.allSatisfy { $0.virtualByteCount == 1 << 20 && $0.dateSeconds > 1_700_000_000 })
      #expect(description.bitmaps.map(\.name) == ["b0", "monday"])
      #expect(description.bitmaps.map(\.granularityByteCount) == [32768, 65536])
      #expect(description.bitmaps.map(\.isAuto) == [true, false])
      #expect(description.bitmapsAreTrusted)
      #expect(description.features.contains(FeatureName(.autoclear, 0, "bitmaps")))
      let image = try await openImage(file, isReadOnly: true)
      #expect(try await image.check().isClean)
    }
  }

  @Test func backingChainIsBounded() async throws {
    try await LoopActor().run { _ in
      let (file, image) = try await makeImage(
        .init(virtualByteCount: 1 << 20, backing: .init(name: "self", format: "qcow2")),
        backing: .device(MemoryDevice(byteCount: 0)))
      try await image.close()
      let loop = Loop(file.image)
      do {
        _ = try await loop.open(depth: 0)
        Issue.record("an image that is its own backing file was opened")
      } catch {
        #expect(loop.count == Qcow2Image.maximumBackingDepth + 1)
      }
    }
  }

  /// The room that is left for the chain's L1 tables, in tables.
  @Test(arguments: [(64, 64), (2, 2), (2, 1), (64, 63), (1, 0)])
  func tablesOfAChainAreBoundedTogether(count: Int, room: Int) async throws {
    await LoopActor().run { _ in
      let chain = Chain(count: count, l1EntryCount: 1024)
      var options = Qcow2Image.OpenOptions()
      options.tableByteCountAbove = Qcow2Image.maximumChainTableByteCount - room * 1024 * 8
      do {
        let image = try await chain.open(options)
        #expect(room >= count)
        #expect(try await image.readBytes(512, at: 0) == [UInt8](repeating: 0, count: 512))
        try await image.close()
      } catch {
        #expect(room < count && "\(error)".contains("take more than 256 MiB together"), "\(error)")
      }
    }
  }

  /// Empty images, each of which stands on the next.
  private struct Chain {
    let count: Int
    let l1EntryCount: Int

    nonisolated(nonsending)
      func open(_ options: Qcow2Image.OpenOptions) async throws -> Qcow2Image
    {
      var header = HeaderTests.header()
      header.virtualByteCount = 1 << 20
      header.l1EntryCount = l1EntryCount
      if options.depth == count - 1 { header.backingName = nil }
      let bytes = try header.encoded()
      var file = SparseImage(byteCount: 40 << 20)
      file.write(bytes.span.bytes, at: 0)
      let resolver: BackingResolver = { reference in
        var options = Qcow2Image.OpenOptions(depth: reference.depth)
        options.tableByteCountAbove = reference.tableByteCountAbove
        return try await open(options)
      }
      return try await Qcow2Image.open(
        MemoryDevice(file), options: options, backing: .resolve(resolver), work: InlineWork(), pool: pool)
    }
  }

  /// An image that names itself.
  private final class Loop: @unchecked Sendable {
    // Safe to hand over: confined to the test's loop.
    let image: SparseImage
    var count = 0
    init(_ image: SparseImage) { self.image = image }

    nonisolated(nonsending)
      func open(depth: Int) async throws -> Qcow2Image
    {
      count += 1
      let file = MemoryDevice(image)
      return try await Qcow2Image.open(
        file, options: .init(depth: depth), backing: .resolve { try await self.open(depth: $0.depth) },
        work: InlineWork(), pool: pool)
    }
  }
}
