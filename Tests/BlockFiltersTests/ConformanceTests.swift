import BlockCore
import BlockFilters
import BlockTesting
import Buffers
import Testing

/// Each filter is a device like the one below it.
@Suite struct ConformanceTests {
  enum Filter: CaseIterable {
    case slot, alignedAccess, alignedAccessOverBlocks, slotOverBlocks, dirtyTracking, copyBeforeWrite

    func device(_ byteCount: UInt64, isReadOnly: Bool = false, on home: LoopActor) -> any BlockDevice {
      var options = MemoryDevice.Options()
      options.isReadOnly = isReadOnly
      options.interleavingSeed = 5
      switch self {
      case .slot: return Slot(MemoryDevice(byteCount: byteCount, options: options))
      case .alignedAccess: return AlignedAccess(MemoryDevice(byteCount: byteCount, options: options))
      case .dirtyTracking:
        return DirtyTracking(MemoryDevice(byteCount: byteCount, options: options), recorder: RangeRecorder())
      case .copyBeforeWrite:
        let (memory, pool) = (MemoryDevice(byteCount: byteCount, options: options), BufferPool())
        let store = FleecingStore(
          grainByteCount: 4096, memory: FleecingMemory(limitByteCount: 16 << 10),
          temp: MemoryDevice(byteCount: 4 << 20), pool: pool, on: home)
        let filter = CopyBeforeWrite(memory, store: store, pool: pool, on: home)
        // Two moments of zeroes.
        for _ in 0..<2 { _ = filter.begin() }
        return filter
      case .alignedAccessOverBlocks, .slotOverBlocks:
        options.limits.requestAlignment = 512
        options.limits.maximumTransferByteCount = 64 << 10
        let access = AlignedAccess(MemoryDevice(byteCount: byteCount, options: options))
        return self == .slotOverBlocks ? Slot(access) : access
      }
    }
  }

  @Test(arguments: Filter.allCases, BlockDeviceConformance.Check.allCases)
  func aFilterIsADevice(_ filter: Filter, _ check: BlockDeviceConformance.Check) async throws {
    let home = LoopActor()
    let suite = BlockDeviceConformance(
      BlockDeviceConformance.Traits(),
      makeReadOnly: { filter.device($0, isReadOnly: true, on: home) },
      make: { filter.device($0, on: home) })
    try await home.run { _ in
      for seed in 1...UInt64(TestEffort.rounds(3)) { try await suite.run(check, seed: seed) }
    }
  }
}

@Suite struct WindowTests {
  @Test func showsTheFirstBytesAndNoMore() async throws {
    try await LoopActor().run { _ in
      let memory = MemoryDevice(byteCount: 8192)
      try await memory.writeBytes([UInt8](repeating: 7, count: 8192), at: 0)
      let window = Window(memory, byteCount: 5000)
      #expect(window.byteCount == 5000 && window.isReadOnly)
      #expect(try await window.readBytes(10, at: 4990) == [UInt8](repeating: 7, count: 10))
      await #expect(throws: BlockError.self) { try await window.readBytes(11, at: 4990) }
      let status = try await window.blockStatus(ByteRange(offset: 0, length: 5000), limit: 8)
      #expect(status.last?.range.end == 5000)
      for change in [BlockError.Operation.write, .writeZeroes, .discard, .resize] {
        let error = await #expect(throws: BlockError.self) {
          switch change {
          case .write: try await window.writeBytes([1], at: 0)
          case .writeZeroes: try await window.writeZeroes(ByteRange(offset: 0, length: 1), options: [])
          case .discard: try await window.discard(ByteRange(offset: 0, length: 1))
          default: try await window.resize(to: 100)
          }
        }
        #expect(error?.kind == .readOnly)
      }
      #expect(try await memory.readBytes(1, at: 0) == [7])
    }
  }
}
