import BlockCore
import BlockTesting
import Buffers
import Foundation
import Locks
import Model
import ModelTesting
import Qcow2
import Repositories
import Testing

/// A chain read through its map is what its files are when they are stacked, at any depth.
struct ChainImageTests {
  private let loop = LoopActor()

  nonisolated(nonsending)
    private static func open(
      _ chain: TestChain, upTo top: Int, openFileCount: Int? = nil, maximumRunCount: Int? = nil,
      _ device: (@Sendable (Int) throws -> any BlockDevice)? = nil
    ) async throws -> ChainImage
  {
    try await ChainImage.open(
      chain.files(upTo: top, device ?? { chain.device($0) }), openFileCount: openFileCount,
      maximumRunCount: maximumRunCount, work: InlineWork(), pool: BufferPool())
  }

  /// Seeded: clusters of 512 bytes to 2 MiB, subclusters, compressed and zero clusters, sizes that grow and shrink.
  @Test(arguments: 1...6) func everyPointReadsAsTheStackedFiles(seed: UInt64) async throws {
    try await loop.run { _ in
      var chain = TestChain(seed: seed)
      for _ in 0..<min(60, TestEffort.rounds(10)) { try await chain.addRandomLayer(changes: 5) }
      for top in 1..<chain.layers.count {
        let image = try await Self.open(chain, upTo: top, openFileCount: 3)
        try await chain.layers[top].model.check(image, "seed \(seed), point \(top)")
        #expect(image.openFileCount <= 3)
        let all = ByteRange(offset: 0, length: image.byteCount)
        let stacked = try await chain.stacked(upTo: top)
        for limit in [1, 7, 64] {
          #expect(try await image.wholeStatus(all, limit: limit) == stacked.wholeStatus(all, limit: limit))
        }
        try await stacked.close()
        try await image.close()
        await #expect(throws: BlockError.self) { try await image.readBytes(1, at: 0) }
      }
    }
  }

  /// Both versions of qemu-img read the same from the same files.
  @Test(.eachToolVersion, arguments: 1...3) func qemuReadsTheSame(seed: UInt64) async throws {
    try await loop.run { _ in
      var chain = TestChain(seed: 100 + seed)
      for _ in 0..<8 { try await chain.addRandomLayer(changes: 4, largest: 2_000_000) }
      let folder = try TemporaryFolder()
      let path = try folder.makeFolder("chain")
      try chain.dump(to: path)
      for top in 1..<chain.layers.count {
        let target = "\(path)/raw"
        try Self.convert("\(path)/\(chain.layers[top].name)", to: target)
        let image = try await Self.open(chain, upTo: top)
        #expect(try await image.readAll() == [UInt8](Data(contentsOf: URL(fileURLWithPath: target))), "point \(top)")
        try await image.close()
      }
    }
  }

  private static func convert(_ source: String, to target: String) throws {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = [
      ToolVersion.current.path(of: "qemu-img"), "convert", "-f", "qcow2", "-O", "raw", source, target,
    ]
    process.standardInput = FileHandle.nullDevice
    try process.run()
    process.waitUntilExit()
    #expect(process.terminationStatus == 0)
  }

  /// Far more files than stay open, and more than QEMU or the stacked images could hold.
  @Test func deepChainsAreReadWithFewFilesOpen() async throws {
    try await loop.run { _ in
      var chain = TestChain(seed: 7)
      let (depth, step) = (TestEffort.rounds(300), UInt64(4096))
      let options = Qcow2Image.CreateOptions(virtualByteCount: 64 * step, clusterByteCount: Int(step))
      for index in 0..<depth {
        try await chain.addLayer(options) { image, model, random in
          let (bytes, offset) = (random.bytes(Int(step)), UInt64(index * 37 % 64) * step)
          try await image.writeBytes(bytes, at: offset)
          model.write(bytes, at: offset)
        }
      }
      let image = try await Self.open(chain, upTo: depth - 1, openFileCount: 8)
      for _ in 1...2 {
        try await chain.layers[depth - 1].model.check(image, "\(depth) files")
        #expect(image.openFileCount <= 8)
      }
      // The last 64 files cover the disk.
      let extents = try await image.wholeStatus(ByteRange(offset: 0, length: image.byteCount))
      #expect(Set(extents.map(\.depth)) == Set(1...64))
      try await image.close()
    }
  }

  @Test func requestsThatWantTheSameClosedFileShareIt() async throws {
    try await loop.run { loop in
      var chain = TestChain(seed: 11)
      for _ in 0..<6 { try await chain.addRandomLayer(changes: 6, largest: 400_000) }
      let files = chain
      let image = try await Self.open(chain, upTo: 5, openFileCount: 3) { index in
        var options = MemoryDevice.Options()
        options.isReadOnly = true
        options.answersTryRead = false
        options.interleavingSeed = UInt64(index + 1)
        return MemoryDevice(files.layers[index].file, options: options)
      }
      try await withThrowingTaskGroup(of: Void.self) { group in
        for number in 0..<32 {
          group.addTask {
            try await loop.run { _ in
              let offset = UInt64(number) * image.byteCount / 33
              let found = try await image.readBytes(Int(image.byteCount / 40), at: offset)
              #expect(files.layers[5].model.firstDifference(from: found, at: offset) == nil)
            }
          }
        }
        try await group.waitForAll()
      }
      try await image.close()
    }
  }

  // MARK: Damage

  /// A full of 16 clusters, and increments that each hold two of them.
  nonisolated(nonsending)
    private static func plainChain(_ count: Int) async throws -> TestChain
  {
    var chain = TestChain(seed: 3)
    let options = Qcow2Image.CreateOptions(virtualByteCount: 65536, clusterByteCount: 4096)
    for index in 0..<count {
      try await chain.addLayer(options) { image, model, random in
        let range = index == 0 ? 0..<16 : (2 * index)..<(2 * index + 2)
        for cluster in range {
          let bytes = random.bytes(4096)
          try await image.writeBytes(bytes, at: UInt64(cluster) * 4096)
          model.write(bytes, at: UInt64(cluster) * 4096)
        }
      }
    }
    return chain
  }

  /// Missing, of another parent, of another size, cut off within its tables: the error names the file.
  @Test func aFileThatIsNotTheChainsIsNamed() async throws {
    try await loop.run { _ in
      let chain = try await Self.plainChain(4)
      var other = try await Self.plainChain(1)
      try await other.addLayer(.init(virtualByteCount: 32768, clusterByteCount: 4096)) { _, _, _ in }
      for index in 0..<4 {
        var small = other.layers[1].file
        if index == 0 {
          let device = MemoryDevice(byteCount: 0)
          try await Qcow2Image.create(on: device, options: .init(virtualByteCount: 32768, clusterByteCount: 4096))
          small = device.image
        }
        var cut = chain.layers[index].file
        cut.resize(to: 4096)
        let wrong: [SparseImage?] = [nil, chain.layers[index == 0 ? 1 : index - 1].file, small, cut]
        for (kind, file) in wrong.enumerated() {
          let device: @Sendable (Int) throws -> any BlockDevice = { asked in
            guard asked == index else { return chain.device(asked) }
            guard let file else { throw DomainError(.backupCorrupt, "chain/\(index).qcow2 is missing") }
            return MemoryDevice(file)
          }
          let error = await #expect(throws: DomainError.self, "\(index), \(kind)") {
            _ = try await Self.open(chain, upTo: 3, device)
          }
          #expect(error?.code == .backupCorrupt && error?.detail.contains("chain/\(index).qcow2") == true)
        }
      }
    }
  }

  /// A file that takes another's place while it is closed is told by the reads that need it.
  @Test func aFileThatWasSwappedMeanwhileIsNamed() async throws {
    try await loop.run { _ in
      let chain = try await Self.plainChain(5)
      let isSwapped = Lock(false)
      let image = try await Self.open(chain, upTo: 4, openFileCount: 3) { index in
        // Another increment of the same parent, and size, whose clusters lie elsewhere.
        guard index == 2, isSwapped.withLock({ $0 }) else { return chain.device(index) }
        var file = chain.layers[2].file
        file.resize(to: file.byteCount + 4096)
        return MemoryDevice(file)
      }
      _ = try await image.readBytes(4096, at: 6 * 4096)
      isSwapped.withLock { $0 = true }
      for cluster in 0..<16 {
        let isOfSwapped = cluster == 4 || cluster == 5
        do {
          let found = try await image.readBytes(4096, at: UInt64(cluster) * 4096)
          #expect(!isOfSwapped && chain.layers[4].model.firstDifference(from: found, at: UInt64(cluster) * 4096) == nil)
        } catch let error as BlockError {
          #expect(isOfSwapped && "\(error)".contains("chain/2.qcow2"), "\(error)")
        }
      }
      try await image.close()
    }
  }

  /// An entry that can't be meant fails the reads of its cluster and names the file, whatever layer it is in.
  @Test(arguments: 0...3) func damagedEntriesFailTheirReadsOnly(layer: Int) async throws {
    try await loop.run { _ in
      let chain = try await Self.plainChain(4)
      let cluster = layer == 0 ? 1 : 2 * layer
      // The only L2 table: found by its entries.
      var file = chain.layers[layer].file
      let header = MemoryDevice(file)
      let l1 = try await header.readBytes(8, at: Self.number(try await header.readBytes(8, at: 40)))
      let table = Self.number(l1) & 0x00ff_ffff_ffff_fe00
      let reserved: [UInt8] = [0x3f, 0xff]
      file.write(reserved.span.bytes, at: table + UInt64(cluster) * 8)
      let damaged = file
      let image = try await Self.open(chain, upTo: 3) { $0 == layer ? MemoryDevice(damaged) : chain.device($0) }
      for number in 0..<16 {
        do {
          let found = try await image.readBytes(4096, at: UInt64(number) * 4096)
          #expect(
            number != cluster && chain.layers[3].model.firstDifference(from: found, at: UInt64(number) * 4096) == nil)
        } catch let error as BlockError {
          #expect(number == cluster && "\(error)".contains("chain/\(layer).qcow2"), "cluster \(number): \(error)")
          guard case .corrupt = error.kind else { throw error }
        }
      }
      try await image.close()
    }
  }

  private static func number(_ bytes: [UInt8]) -> UInt64 { bytes.reduce(0) { $0 << 8 | UInt64($1) } }

  /// Few runs at a time may be in memory: the maps of the disk's stretches come and go.
  @Test(arguments: 11...14) func aLargeMapIsMadeInStretches(seed: UInt64) async throws {
    try await loop.run { _ in
      var chain = TestChain(seed: seed)
      for _ in 0..<8 { try await chain.addRandomLayer(changes: 40) }
      let top = chain.layers.count - 1
      let stacked = try await chain.stacked(upTo: top)
      for limit in [1, 20, 300] {
        let image = try await Self.open(chain, upTo: top, openFileCount: 3, maximumRunCount: limit)
        try await chain.layers[top].model.check(image, "seed \(seed), \(limit) runs")
        let all = ByteRange(offset: 0, length: image.byteCount)
        #expect(try await image.wholeStatus(all, limit: 7) == stacked.wholeStatus(all, limit: 7))
        try await image.close()
      }
      try await stacked.close()
    }
  }
}
