import BlockCore
import BlockTesting
import Buffers
import Testing

@testable import Qcow2

/// What becomes of a file's length.
@Suite struct GrowthTests {
  /// A device over memory that judges each resize: the kernel changes the page at the old end through the page cache,
  /// so no write to that page may be in flight, and the length itself is whole pages.
  private final class PageJudge: BlockFilter, @unchecked Sendable {
    // Safe to hand over: confined to the test's loop.
    let next: any BlockDevice
    /// A length that needn't be whole pages: that of a disk.
    private let exactByteCount: UInt64?
    private var writes: [UInt64: ByteRange] = [:]
    private var writeCount: UInt64 = 0
    private(set) var resizes: [UInt64] = []

    init(_ memory: MemoryDevice, exactByteCount: UInt64? = nil) {
      next = memory
      self.exactByteCount = exactByteCount
    }

    nonisolated(nonsending)
      func change(
        _ kind: BlockChange, _ range: ByteRange,
        _ perform: nonisolated(nonsending) (ByteRange) async throws(BlockError) -> Void
      ) async throws(BlockError)
    {
      switch kind {
      case .write:
        writeCount += 1
        let number = writeCount
        writes[number] = range
        defer { writes[number] = nil }
        for _ in 0..<3 { await Task.yield() }
        try await perform(range)
      case .resize(let byteCount):
        judge(byteCount)
        try await perform(range)
      case .writeZeroes, .discard: try await perform(range)
      }
    }

    private func judge(_ newByteCount: UInt64) {
      let page = UInt64(pageByteCount)
      if newByteCount != exactByteCount {
        #expect(newByteCount % page == 0, "the file is made \(newByteCount) bytes long")
      }
      for end in [byteCount, newByteCount] where end % page != 0 {
        let last = ByteRange(offset: end / page * page, length: page)
        #expect(!writes.values.contains { $0.overlaps(last) }, "a write to the page at \(end) is in flight")
      }
      resizes.append(newByteCount)
    }
  }

  private static func options(alignment: Int = 512) -> MemoryDevice.Options {
    var options = MemoryDevice.Options()
    options.limits.requestAlignment = alignment
    options.interleavingSeed = 4
    return options
  }

  /// Writes 2 KiB in each 64 KiB, in 32 requests at a time.
  private static func writeAbout(_ image: Qcow2Image, on home: LoopActor) async throws {
    try await withThrowingTaskGroup { group in
      for lane in 0..<32 {
        group.addTask {
          try await home.run { _ in
            for step in 0..<8 {
              let bytes = [UInt8](repeating: UInt8(lane + 1), count: 2048)
              try await image.writeBytes(bytes, at: UInt64(step * 32 + lane) << 16)
            }
          }
        }
      }
      try await group.waitForAll()
    }
  }

  @Test(arguments: [UInt64(0), 1, 512, 1001, 1536])
  func lengthsAreWholePagesAndNoWriteSharesOneThatGrows(surplus: UInt64) async throws {
    let home = LoopActor()
    let (judge, image) = try await home.run { _ in
      let memory = MemoryDevice(byteCount: 0, blockByteCount: 512, options: Self.options())
      try await Qcow2Image.create(on: memory, options: .init(virtualByteCount: 24 << 20, clusterByteCount: 512))
      // As another program may leave it, in the middle of a page.
      let whole = ByteRange(offset: 0, length: memory.byteCount).aligned(to: UInt64(pageByteCount)).length
      memory.image.resize(to: whole + surplus)
      let judge = PageJudge(memory)
      return (judge, try await openImage(judge, cacheByteCount: 32 << 10))
    }
    try await Self.writeAbout(image, on: home)
    try await home.run { _ in
      try await image.flush()
      try await image.discard(ByteRange(offset: 8 << 20, length: 8 << 20))
      #expect(try await image.check().isClean)
      try await image.close()
      #expect(judge.resizes.count > 1)
    }
  }

  /// A new image with some data, in memory that wants `alignment`, and `surplus` bytes longer than whole pages.
  nonisolated(nonsending)
    private static func makeOdd(_ alignment: Int, clusterByteCount: Int, surplus: UInt64) async throws -> MemoryDevice
  {
    let (memory, image) = try await makeImage(
      .init(virtualByteCount: 8 << 20, clusterByteCount: clusterByteCount), device: options(alignment: alignment))
    try await image.writeBytes([UInt8](repeating: 9, count: 5000), at: 4 << 20)
    try await image.close()
    var odd = memory.image
    odd.resize(to: ByteRange(offset: 0, length: odd.byteCount).aligned(to: UInt64(pageByteCount)).length + surplus)
    return MemoryDevice(odd, options: options(alignment: alignment))
  }

  @Test(arguments: [1, 512, 4096], [UInt64(1), 255, 511])
  func onlyAChangeMakesAnOddFileWhole(alignment: Int, surplus: UInt64) async throws {
    let folder = try TemporaryFolder()
    for clusterByteCount in [512, 65536] {
      let path = folder.file("\(clusterByteCount).qcow2")
      let memory = try await Self.makeOdd(alignment, clusterByteCount: clusterByteCount, surplus: surplus)
      let before = try await memory.readAll()
      let judge = PageJudge(memory)
      let reader = try await openImage(judge, cacheByteCount: 32 << 10)
      var guest = try await reader.readAll()
      _ = try await reader.wholeStatus(ByteRange(offset: 0, length: reader.byteCount))
      #expect(try await reader.check().isClean)
      try await reader.flush()
      try await reader.close()
      #expect(judge.resizes.isEmpty && memory.calls[.write] == 0 && memory.calls[.writeZeroes] == 0)

      let writable = MemoryDevice(memory.image, options: memory.options)
      #expect(try await writable.readAll() == before)
      let image = try await openImage(PageJudge(writable), cacheByteCount: 32 << 10)
      for offset in [0, 3 << 20, (8 << 20) - 700] {
        let bytes = [UInt8](repeating: UInt8((offset >> 20) + 1), count: 700)
        try await image.writeBytes(bytes, at: UInt64(offset))
        guest.replaceSubrange(offset..<offset + 700, with: bytes)
      }
      try await image.close()
      #expect(writable.byteCount % UInt64(pageByteCount) == 0)
      try writable.image.dump(to: path)
      #expect(try Qemu.check(path) == .clean)
      #expect(try Qemu.guestBytes(path) == guest)
    }
  }

  /// The whole file lies in one block, so that the repair's first write is to the last one.
  @Test func repairAtOpeningMakesAnOddFileWhole() async throws {
    let made = MemoryDevice(byteCount: 0, blockByteCount: 512)
    try await Qcow2Image.create(on: made, options: .init(virtualByteCount: 512, clusterByteCount: 512))
    let memory = MemoryDevice(made.image, options: Self.options(alignment: 4096))
    memory.image.resize(to: 2049)
    // The last byte of the incompatible features.
    let dirty: [UInt8] = [1]
    memory.image.write(dirty.span.bytes, at: 79)
    let image = try await openImage(PageJudge(memory))
    #expect(image.repairedAtOpening == 0)
    #expect(memory.byteCount == 4096)
    #expect(try await image.check().isClean)
    try await image.close()
  }

  /// QEMU's tables name all of a raw data file from the start, so that one can't be empty.
  @Test(arguments: zip([UInt64(0), 1536, 6 << 20], ["off", "off", "on"]))
  func dataFileGetsItsLengthBeforeItsFirstWrite(from start: UInt64, isRaw: String) async throws {
    let folder = try TemporaryFolder()
    let home = LoopActor()
    let size: UInt64 = (24 << 20) - 512
    let (path, data) = (folder.file("image"), folder.file("data"))
    let options = "cluster_size=512,data_file=\(data),data_file_raw=\(isRaw)"
    try Qemu.image("create", "-q", "-f", "qcow2", "-o", options, path, "\(size)")
    let (judge, image) = try await home.run { _ in
      let made = MemoryDevice(byteCount: start, blockByteCount: 512, options: Self.options())
      let judge = PageJudge(made, exactByteCount: size)
      let file = MemoryDevice(try SparseImage(contentsOf: path))
      return (judge, try await openImage(file, dataFile: .device(judge), cacheByteCount: 32 << 10))
    }
    try await Self.writeAbout(image, on: home)
    try await home.run { _ in
      try await image.flush()
      #expect(judge.resizes == [size])
      try await image.close()
      #expect(judge.byteCount == size)
    }
  }
}
