import BlockCore
import BlockTesting
import Testing

@testable import Qcow2

/// Whatever call of the device fails, and whenever power goes: what was flushed is there, nothing is corrupt, and
/// at most clusters are leaked.
@Suite struct RecoveryTests {
  static let seeds = (0..<TestEffort.rounds(1)).map { UInt64(3 + $0) }

  @Test(arguments: RecoveryStory.settings, seeds)
  func cutAtAnyChangeLosesNothingFlushed(_ setting: RecoveryStory.Setting, seed: UInt64) async throws {
    let folder = try TemporaryFolder()
    try await LoopActor().run { _ in
      let (start, beginning) = try await RecoveryStory.begin(setting, seed: seed)
      var call = 0
      var isOver = false
      while !isOver {
        call += call == 0 ? 1 : setting.stride
        let story = beginning.again()
        let device = CrashPointDevice(start)
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
        let memory = MemoryDevice(start)
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

  static func judge(_ image: SparseImage, _ story: RecoveryStory, _ folder: TemporaryFolder, _ what: String) throws {
    let path = folder.file("judged.qcow2")
    try story.backing?.dump(to: folder.file("base"))
    try image.dump(to: path)
    let verdict = try Qemu.check(path)
    if verdict.corruptions > 0 { throw ConformanceFailure("\(what): qemu-img check finds \(verdict)") }
  }
}
