import BlockCore
import BlockFilters
import BlockTesting
import Testing

@Suite struct AlignedAccessTests {
  private static func memory(_ byteCount: UInt64, seed: UInt64? = nil) -> MemoryDevice {
    var options = MemoryDevice.Options()
    options.limits.requestAlignment = 4096
    options.limits.maximumTransferByteCount = 16 << 10
    options.interleavingSeed = seed
    return MemoryDevice(byteCount: byteCount, options: options)
  }

  @Test func onlyWhatNeedsItGetsOne() {
    let (any, blocks) = (MemoryDevice(byteCount: 8192), Self.memory(8192))
    #expect(AlignedAccess.over(any) === any)
    let access = AlignedAccess.over(blocks)
    #expect(access is AlignedAccess)
    #expect(access.limits.requestAlignment == 1 && access.limits.maximumTransferByteCount == 32 << 20)
    #expect(access.limits.preferredByteCount == 4096)
  }

  /// Writers of neighbouring bytes: each block holds all of them in the end.
  @Test func noPartOfABlockIsLost() async throws {
    let home = LoopActor()
    for seed in 1...UInt64(TestEffort.rounds(6)) {
      let memory = Self.memory(64 << 10, seed: seed)
      let access = AlignedAccess(memory)
      try await withThrowingTaskGroup { group in
        for lane in 0..<16 {
          group.addTask {
            try await home.run { _ in
              for block in 0..<16 {
                let bytes = [UInt8](repeating: UInt8(lane + 1), count: 256)
                try await access.writeBytes(bytes, at: UInt64(block * 4096 + lane * 256))
              }
            }
          }
        }
        try await group.waitForAll()
      }
      try await home.run { _ in
        let all = try await access.readBytes(64 << 10, at: 0)
        for index in stride(from: 0, to: all.count, by: 256) {
          #expect(all[index..<index + 256].allSatisfy { $0 == UInt8(index / 256 % 16 + 1) }, "seed \(seed), \(index)")
        }
        #expect(access.lentByteCount == 0)
      }
    }
  }

  /// Zeroes that end in a part of a block beside writers of the other part.
  @Test func zeroesOfAPartLeaveTheRestOfItsBlock() async throws {
    try await LoopActor().run { _ in
      let access = AlignedAccess(Self.memory(64 << 10))
      try await access.writeBytes([UInt8](repeating: 5, count: 64 << 10), at: 0)
      try await access.writeZeroes(ByteRange(4000..<20_000), options: [.mayUnmap])
      let all = try await access.readBytes(64 << 10, at: 0)
      #expect(all[..<4000].allSatisfy { $0 == 5 } && all[20_000...].allSatisfy { $0 == 5 })
      #expect(all[4000..<20_000].allSatisfy { $0 == 0 })
      let error = await #expect(throws: BlockError.self) {
        try await access.writeZeroes(ByteRange(1..<8192), options: [.onlyIfFast])
      }
      #expect(error?.kind == .notFast)
    }
  }

  @Test func aDiscardTakesWholeBlocksOnly() async throws {
    try await LoopActor().run { _ in
      let memory = Self.memory(64 << 10)
      let access = AlignedAccess(memory)
      try await access.writeBytes([UInt8](repeating: 5, count: 64 << 10), at: 0)
      try await access.discard(ByteRange(100..<4095))
      #expect(try await access.readBytes(64 << 10, at: 0).allSatisfy { $0 == 5 })
      try await access.discard(ByteRange(100..<12_289))
      let all = try await access.readBytes(64 << 10, at: 0)
      #expect(all[..<4096].allSatisfy { $0 == 5 } && all[12_288...].allSatisfy { $0 == 5 })
      #expect(all[4096..<12_288].allSatisfy { $0 == 0 })
    }
  }

  /// A change that fails at any call of the device below has changed nothing outside of its range.
  @Test func aFailedChangeLeavesWhatLiesAround() async throws {
    try await LoopActor().run { _ in
      for effect in Fault.Effect.allCases {
        try await forEachFault { call in
          let memory = Self.memory(64 << 10)
          let faulty = FaultyDevice(memory)
          let access = AlignedAccess(faulty)
          try await access.writeBytes([UInt8](repeating: 5, count: 64 << 10), at: 0)
          faulty.fault = Fault(atCall: call, effect: effect)
          var hasFailed = false
          do { try await access.writeBytes([UInt8](repeating: 6, count: 30_000), at: 5000) } catch { hasFailed = true }
          guard faulty.wasHit else { return false }
          #expect(hasFailed)
          faulty.fault = nil
          let all = try await access.readBytes(64 << 10, at: 0)
          #expect(all[..<5000].allSatisfy { $0 == 5 } && all[35_000...].allSatisfy { $0 == 5 })
          #expect(all.allSatisfy { $0 == 5 || $0 == 6 })
          // The range is free again.
          try await access.writeBytes([7], at: 5001)
          #expect(access.lentByteCount == 0)
          return true
        }
      }
    }
  }
}
