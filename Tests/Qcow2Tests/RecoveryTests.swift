import BlockCore
import BlockTesting
import Glibc
import Testing

@testable import Qcow2

/// What an image's latch told; confined to the test's loop.
private final class Told: @unchecked Sendable {
  var errors: [BlockError] = []
}

/// Whatever call of the device fails, and whenever power goes: what was flushed is there, nothing is corrupt, and
/// at most clusters are leaked.
@Suite struct RecoveryTests {
  static let seeds = (0..<TestEffort.rounds(1)).map { UInt64(3 + $0) }

  @Test(arguments: RecoveryStory.settings, seeds)
  func cutAtAnyChangeLosesNothingFlushed(_ setting: RecoveryStory.Setting, seed: UInt64) async throws {
    try await Self.cutAtEachChange(setting, seed: seed)
  }

  /// Stories that found something once.
  @Test(arguments: zip(RecoveryStory.settings.filter { $0.hasSubclusters && $0.resizes }, [UInt64(15)]))
  func cutLosesNothingInAStoryThatFailedBefore(_ setting: RecoveryStory.Setting, seed: UInt64) async throws {
    try await Self.cutAtEachChange(setting, seed: seed)
  }

  private static func cutAtEachChange(_ setting: RecoveryStory.Setting, seed: UInt64) async throws {
    let folder = try TemporaryFolder()
    try await LoopActor().run { _ in
      let (start, beginning) = try await RecoveryStory.begin(setting, seed: seed)
      var call = 0
      var isOver = false
      while !isOver {
        call += call == 0 ? 1 : setting.stride
        let story = beginning.again()
        let device = CrashPointDevice(start, options: setting.device)
        device.crash(atCall: call)
        do { try await story.run(on: device) } catch {}
        isOver = !device.isCut
        for (number, found) in device.durableImages(seed: UInt64(call), count: 2).enumerated() {
          try await story.verify(found, "seed \(seed), cut at call \(call), disk \(number)")
          if call % 40 == 1, number == 2 { try Self.judge(found.image, story, folder, "cut at call \(call)") }
        }
      }
      #expect(call > 10)
    }
  }

  /// The refcount table moves: looked at closely, as it happens once and everything hangs on it.
  @Test func cutWhileTheRefcountTableGrowsNeverLosesACount() async throws {
    let setting = RecoveryStory.Setting(
      clusterByteCount: 512, refcountBits: 64, byteCount: 2_400_256, filled: 2_024_960)
    try await LoopActor().run { _ in
      let (start, _) = try await RecoveryStory.begin(setting, seed: 1)
      var call = 0
      var isOver = false
      var tableSizes: Set<Int> = []
      while !isOver {
        call += 1
        let device = CrashPointDevice(start)
        device.crash(atCall: call)
        let image = try await openImage(device)
        do {
          try await image.writeBytes([UInt8](repeating: 1, count: 40 * 512), at: 2_100_224)
          try await image.flush()
        } catch {}
        isOver = !device.isCut
        for (number, disk) in device.durableImages(seed: UInt64(call), count: 12).enumerated() {
          let found = try await openImage(disk, isReadOnly: true)
          tableSizes.insert(found.header.value.refcountTableClusterCount)
          let report = try await found.check()
          #expect(report.corruptionCount == 0, "cut at call \(call), disk \(number): \(report)")
        }
      }
      #expect(tableSizes.count == 2)
    }
  }

  /// A discard of the file that fails only wastes space: nobody need hear of it, so it isn't among the faults.
  static let faults = Fault.Effect.allCases.flatMap { effect in
    RecoveryStory.settings.filter { setting in
      setting.sampling == 1 && (setting.filled == 0 || effect == .prefix || TestEffort.factor > 1)
    }.map { (effect, $0) }
  }

  @Test(arguments: faults)
  func failureAtAnyCallIsAnErrorAndNeverCorrupts(_ effect: Fault.Effect, _ setting: RecoveryStory.Setting) async throws
  {
    let folder = try TemporaryFolder()
    try await LoopActor().run { _ in
      let (start, beginning) = try await RecoveryStory.begin(setting, seed: 9)
      let calls = try await forEachFault { call in
        let story = beginning.again()
        let memory = MemoryDevice(start, options: setting.device)
        let operations = Fault.allOperations.subtracting([.discard])
        let device = FaultyDevice(memory, fault: Fault(atCall: call, of: operations, effect: effect))
        var failure: (any Error)?
        do { try await story.run(on: device) } catch { failure = error }
        if device.wasHit, failure == nil {
          throw ConformanceFailure("the failure of call \(call) was swallowed")
        }
        try await story.verify(MemoryDevice(memory.image), "failed at call \(call)")
        if call % 40 == 1 { try Self.judge(memory.image, story, folder, "failed at call \(call)") }
        return device.wasHit
      }
      #expect(calls > 20)
    }
  }

  /// Whichever call fails that makes tables durable: nobody knows then what the file holds, so it isn't touched again.
  @Test func imageIsLatchedAfterAnUncertainWriteUntilItIsReopened() async throws {
    try await LoopActor().run { _ in
      let calls = try await forEachFault { call in
        let (made, first) = try await makeImage(.init(virtualByteCount: 1 << 20, clusterByteCount: 4096))
        try await first.writeBytes([UInt8](repeating: 1, count: 50_000), at: 0)
        try await first.close()
        let memory = MemoryDevice(made.image)
        let device = FaultyDevice(memory, fault: Fault(atCall: .max))
        let image = try await openImage(device)
        let told = Told()
        image.onLatch = { told.errors.append($0) }
        try await image.writeBytes([UInt8](repeating: 2, count: 9000), at: 200_000)
        device.fault = Fault(atCall: call, of: [.write, .flush])
        do throws(BlockError) {
          try await image.flush()
          if device.wasHit { throw BlockError(.closed, .flush) }
          return false
        } catch {
          guard device.wasHit, error.kind != .closed else { throw ConformanceFailure("call \(call): \(error)") }
        }
        let before = [memory.calls[.write], memory.calls[.flush], memory.calls[.discard], memory.calls[.writeZeroes]]
        for request in 0..<6 {
          do throws(BlockError) {
            switch request {
            case 0: try await image.writeBytes([3], at: 0)
            case 1: try await image.flush()
            case 2: try await image.writeZeroes(ByteRange(offset: 0, length: 4096), options: [])
            case 3: try await image.discard(ByteRange(offset: 0, length: 8192))
            case 4: try await image.resize(to: 2 << 20)
            default: try await image.writeBytes([4], at: 900_000, options: .forceUnitAccess)
            }
            Issue.record("call \(call), request \(request): succeeded")
          } catch {
            #expect(error.kind == .latchedFailed, "call \(call), request \(request): \(error)")
          }
        }
        try? await image.close()
        #expect(told.errors.count == 1 && told.errors.first?.kind == .io(errno: EIO), "call \(call): \(told.errors)")
        #expect(
          [memory.calls[.write], memory.calls[.flush], memory.calls[.discard], memory.calls[.writeZeroes]] == before)
        let again = try await openImage(MemoryDevice(memory.image))
        #expect(try await again.readBytes(50_000, at: 0).allSatisfy { $0 == 1 })
        try await again.writeBytes([5], at: 0)
        try await again.close()
        return true
      }
      #expect(calls > 3)
    }
  }

  static func judge(_ image: SparseImage, _ story: RecoveryStory, _ folder: TemporaryFolder, _ what: String) throws {
    let path = folder.file("judged.qcow2")
    try story.backing?.dump(to: folder.file("base"))
    try image.dump(to: path)
    let verdict = try Qemu.check(path)
    if verdict.corruptions > 0 { throw ConformanceFailure("\(what): qemu-img check finds \(verdict)") }
  }
}
