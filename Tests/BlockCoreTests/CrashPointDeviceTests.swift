import BlockCore
import BlockTesting
import Testing

@Suite(.timeLimit(.minutes(1))) struct CrashPointDeviceTests {
  private let sector = 512

  @Test(arguments: BlockDeviceConformance.Check.allCases, [nil, 11] as [UInt64?])
  func conformsWithoutACut(check: BlockDeviceConformance.Check, interleavingSeed: UInt64?) async throws {
    var traits = BlockDeviceConformance.Traits()
    traits.byteCount = 100 << 10
    let suite = BlockDeviceConformance(traits) { byteCount in
      var options = MemoryDevice.Options()
      options.interleavingSeed = interleavingSeed
      return CrashPointDevice(byteCount: byteCount, options: options)
    }
    try await LoopActor().run { _ in try await suite.run(check) }
  }

  @Test func unflushedWriteMayBeLostOrNot() async throws {
    let device = CrashPointDevice(byteCount: 4096)
    try await device.writeBytes([1], at: 0)
    device.crashNow()
    let images = device.durableImages(seed: 1)
    #expect(try await images[0].readBytes(1, at: 0) == [0])
    #expect(try await images[1].readBytes(1, at: 0) == [1])
  }

  @Test func nothingPendingLeavesOneImage() async throws {
    let device = CrashPointDevice(byteCount: 4096)
    try await device.writeBytes([1], at: 0)
    try await device.flush()
    device.crashNow()
    let images = device.durableImages(seed: 1)
    #expect(images.count == 1)
    #expect(try await images[0].readBytes(1, at: 0) == [1])
  }

  @Test func forcedWriteSurvivesAndHidesOlderOnes() async throws {
    let device = CrashPointDevice(byteCount: 4096)
    try await device.writeBytes([1, 1], at: 0)
    try await device.writeBytes([2], at: 0, options: .forceUnitAccess)
    try await device.writeZeroes(ByteRange(1024..<1025), options: .forceUnitAccess)
    device.crashNow()
    for image in device.durableImages(seed: 2, count: 30) { #expect(try await image.readBytes(1, at: 0) == [2]) }
  }

  @Test func everyCallAfterTheCutFails() async throws {
    let device = CrashPointDevice(byteCount: 4096)
    device.crash(atCall: 1)
    await #expect(throws: BlockError.self) { try await device.flush() }
    #expect(device.isCut)
    await #expect(throws: BlockError.self) { try await device.writeBytes([1], at: 0) }
    await #expect(throws: BlockError.self) { try await device.readAll() }
    await #expect(throws: BlockError.self) { try await device.blockStatus(ByteRange(0..<1), limit: 1) }
    await #expect(throws: BlockError.self) { try await device.close() }
  }

  @Test func writeAtTheCutMayBeTorn() async throws {
    let device = CrashPointDevice(byteCount: 64 << 10)
    device.crash(atCall: 1)
    await #expect(throws: BlockError.self) {
      try await device.writeBytes([UInt8](repeating: 1, count: 16 * sector), at: 0)
    }
    var tornCount = 0
    for image in device.durableImages(seed: 3, count: 20) {
      let found = try await image.readAll()
      let sectors = stride(from: 0, to: 16 * sector, by: sector).map { Array(found[$0..<$0 + sector]) }
      // Each sector by itself is whole or untouched.
      #expect(sectors.allSatisfy { $0.allSatisfy { $0 == 1 } || $0.allSatisfy { $0 == 0 } })
      let written = sectors.filter { $0[0] == 1 }.count
      if written > 0, written < 16 { tornCount += 1 }
    }
    #expect(tornCount > 0)
  }

  @Test func unflushedGrowthMayBeLostWithWhatWasWrittenThere() async throws {
    let device = CrashPointDevice(byteCount: 4096)
    try await device.resize(to: 8192)
    try await device.writeBytes([1], at: 8000)
    device.crashNow()
    let sizes = Set(device.durableImages(seed: 4, count: 20).map(\.byteCount))
    #expect(sizes == [4096, 8192])
  }

  /// Each sector of each image that a crash may leave holds a version that is at least as new as the last flush.
  @Test(arguments: 1...UInt64(TestEffort.rounds(4)))
  func sectorsAreNeverOlderThanTheLastFlush(seed: UInt64) async throws {
    let callCount = 40
    for crashCall in stride(from: 1, through: callCount, by: 3) {
      var random = SeededRandom(seed: seed)
      let device = CrashPointDevice(byteCount: 16 << 10)
      device.crash(atCall: crashCall)
      var versions = SectorVersions(count: 32)
      while !device.isCut { await step(device, &versions, &random) }
      for image in device.durableImages(seed: seed, count: 8) {
        let found = try await image.readAll()
        let wrong = versions.firstImpossible(in: found)
        #expect(wrong == nil, "sector \(wrong ?? 0) after a cut at \(crashCall), \(random)")
      }
    }
  }

  /// The sort of mistake that the device is there to find: a commit record that can overtake what it commits.
  @Test func missingFlushBeforeACommitIsFoundAndAFlushCuresIt() async throws {
    #expect(try await brokenCommits(flushing: true) == 0)
    #expect(try await brokenCommits(flushing: false) > 0)
  }

  private func brokenCommits(flushing: Bool) async throws -> Int {
    var broken = 0
    for crashCall in 1...12 {
      let device = CrashPointDevice(byteCount: 16 << 10)
      device.crash(atCall: crashCall)
      do throws(BlockError) {
        for round in 1...4 as ClosedRange<UInt8> {
          try await device.writeBytes([UInt8](repeating: round, count: sector), at: UInt64(round) * 1024)
          if flushing { try await device.flush() }
          try await device.writeBytes([round], at: 0)
        }
      } catch {
        #expect(device.isCut)
      }
      for image in device.durableImages(seed: UInt64(crashCall)) {
        let committed = try await image.readBytes(1, at: 0)[0]
        for round in 0..<committed {
          let data = try await image.readBytes(1, at: UInt64(round + 1) * 1024)
          if data != [round + 1] { broken += 1 }
        }
      }
    }
    return broken
  }

  private func step(
    _ device: CrashPointDevice, _ versions: inout SectorVersions, _ random: inout SeededRandom
  ) async {
    let first = random.below(32)
    let count = 1 + random.below(min(6, 32 - first))
    let range = ByteRange(offset: UInt64(first * sector), length: UInt64(count * sector))
    let isForced = random.oneIn(5)
    let value = UInt8(1 + random.below(255))
    do throws(BlockError) {
      switch random.below(5) {
      case 0:
        try await device.flush()
        versions.flush()
      case 1:
        versions.add(0, first..<first + count)
        try await device.writeZeroes(range, options: isForced ? [.mayUnmap, .forceUnitAccess] : [])
        if isForced { versions.force(first..<first + count) }
      default:
        versions.add(value, first..<first + count)
        try await device.writeBytes(
          [UInt8](repeating: value, count: count * sector), at: range.offset, options: isForced ? .forceUnitAccess : [])
        if isForced { versions.force(first..<first + count) }
      }
    } catch {
      #expect(device.isCut)
    }
  }
}

/// The values that each sector may hold after a crash: the durable one first, then the unflushed.
private struct SectorVersions {
  private var versions: [[UInt8]]

  init(count: Int) { versions = Array(repeating: [0], count: count) }

  mutating func add(_ value: UInt8, _ sectors: Range<Int>) {
    for sector in sectors { versions[sector].append(value) }
  }

  mutating func force(_ sectors: Range<Int>) {
    for sector in sectors { versions[sector].removeFirst(versions[sector].count - 1) }
  }

  mutating func flush() { force(versions.indices) }

  func firstImpossible(in bytes: [UInt8]) -> Int? {
    versions.indices.first { sector in
      let found = bytes[sector * 512..<(sector + 1) * 512]
      return !versions[sector].contains { value in found.allSatisfy { $0 == value } }
    }
  }
}
