import BlockCore
import BlockTesting
import Glibc
import Testing

@Suite(.timeLimit(.minutes(1))) struct FaultyDeviceTests {
  private let ones = [UInt8](repeating: 1, count: 4096)

  @Test(arguments: BlockDeviceConformance.Check.allCases)
  func conformsWithoutAFault(check: BlockDeviceConformance.Check) async throws {
    var traits = BlockDeviceConformance.Traits()
    traits.byteCount = 100 << 10
    let suite = BlockDeviceConformance(traits) { FaultyDevice(MemoryDevice(byteCount: $0)) }
    try await LoopActor().run { _ in try await suite.run(check) }
  }

  @Test func failsAtJustTheChosenCall() async throws {
    let device = FaultyDevice(MemoryDevice(byteCount: 8192), fault: Fault(atCall: 2, of: [.write], .noSpace))
    try await device.writeBytes([1], at: 0)
    try await device.flush()
    await #expect(throws: BlockError.self) { try await device.writeBytes([2], at: 0) }
    try await device.writeBytes([3], at: 1)
    #expect(try await device.readBytes(2, at: 0) == [1, 3])
    #expect(device.hits == 1 && device.countedCalls == 3)
  }

  @Test func errorNamesKindOperationAndRange() async throws {
    let device = FaultyDevice(MemoryDevice(byteCount: 8192), fault: Fault(atCall: 1, .noSpace))
    do throws(BlockError) {
      try await device.writeBytes([1, 2], at: 7)
      Issue.record("the fault was missed")
    } catch {
      #expect(error.kind == .noSpace && error.operation == .write && error.range == ByteRange(7..<9))
    }
  }

  @Test func lastingFaultFailsFromThenOn() async throws {
    let fault = Fault(atCall: 2, of: [.flush], .io(errno: EIO), .fromThenOn)
    let device = FaultyDevice(MemoryDevice(byteCount: 8192), fault: fault)
    try await device.flush()
    for _ in 0..<3 { await #expect(throws: BlockError.self) { try await device.flush() } }
    device.fault = nil
    try await device.flush()
  }

  @Test func tornWriteLeavesWholeSectorsOfItsBeginning() async throws {
    let device = FaultyDevice(MemoryDevice(byteCount: 8192), fault: Fault(atCall: 1, of: [.write], effect: .prefix))
    await #expect(throws: BlockError.self) { try await device.writeBytes(ones, at: 512) }
    let found = try await device.readAll()
    #expect(found[512..<512 + 2048].allSatisfy { $0 == 1 })
    #expect(found.filter { $0 == 1 }.count == 2048)
  }

  @Test func lostAnswerLeavesTheWholeWrite() async throws {
    let fault = Fault(atCall: 1, of: [.write], effect: .everything)
    let device = FaultyDevice(MemoryDevice(byteCount: 4096), fault: fault)
    await #expect(throws: BlockError.self) { try await device.writeBytes(ones, at: 0) }
    #expect(try await device.readAll() == ones)
  }

  @Test func everyCallOfAStoryIsFailedOnce() async throws {
    var failedOperations: [BlockError.Operation] = []
    let count = try await forEachFault { call in
      let device = FaultyDevice(MemoryDevice(byteCount: 8192), fault: Fault(atCall: call))
      do throws(BlockError) {
        try await device.writeBytes([1], at: 0)
        try await device.writeZeroes(ByteRange(0..<10), options: [])
        try await device.discard(ByteRange(0..<4096))
        _ = try await device.readBytes(5, at: 0)
        _ = try await device.blockStatus(ByteRange(0..<10), limit: 1)
        try await device.resize(to: 100)
        try await device.flush()
      } catch {
        failedOperations.append(error.operation)
      }
      try await device.close()
      return device.wasHit
    }
    #expect(count == 7)
    #expect(failedOperations == [.write, .writeZeroes, .discard, .read, .blockStatus, .resize, .flush])
  }

  @Test func storyThatNeverEndsIsReported() async {
    await #expect(throws: ConformanceFailure.self) { try await forEachFault(limit: 5) { _ in true } }
  }
}
