import BlockCore
import BlockFilters
import BlockTesting
import Glibc
import Testing

/// Points in time under seeded orders of all completions.
@Suite struct CopyBeforeWriteTests {
  typealias Story = CopyBeforeWriteStory

  /// Plays a story with each of so many seeds.
  @discardableResult
  private func play(
    _ setting: Story.Setting, seeds: Int, _ check: (Story) throws -> Void = { _ in }
  ) throws -> Int {
    var comparedCount = 0
    for seed in 1...UInt64(TestEffort.rounds(seeds)) {
      let story = Story(setting, seed: seed)
      try story.play()
      try check(story)
      comparedCount += story.comparedCount
    }
    return comparedCount
  }

  @Test func aViewShowsItsMomentWhateverTheGuestDoes() throws {
    var report = CopyBeforeWriteReport()
    let compared = try play(Story.Setting(), seeds: 20) { story in
      #expect(story.losses.isEmpty && story.refusedCount == 0, "\(story.what)")
      for one in story.reports { report.add(one) }
    }
    #expect(compared > 20 * 100)
    // Everything that could have gone wrong did happen.
    #expect(report.copyCount > 20 * 20 && report.rememberedByteCount > 0 && report.sharedReadCount > 20)
    #expect(report.tempHighWaterByteCount > 0 && report.waits.count > 20 * 20)
  }

  /// Unallocated isn't zero there.
  @Test func aViewShowsItsMomentOverABackingFile() throws {
    var setting = Story.Setting()
    setting.isBacked = true
    var report = CopyBeforeWriteReport()
    try play(setting, seeds: 10) { story in
      #expect(story.losses.isEmpty && story.refusedCount == 0, "\(story.what)")
      for one in story.reports { report.add(one) }
    }
    #expect(report.rememberedByteCount > report.copiedByteCount / 4)
  }

  @Test(arguments: Story.Mistake.allCases)
  func everyPlantedMistakeIsFound(_ mistake: Story.Mistake) {
    var setting = Story.Setting()
    setting.mistake = mistake
    let foundCount = (1...20 as ClosedRange<UInt64>).count { seed in
      do { try Story(setting, seed: seed).play() } catch { return true }
      return false
    }
    #expect(foundCount > 10, "found by \(foundCount) of 20 seeds")
  }

  /// Whatever fails once, or for good: the guest doesn't notice, and a view shows its moment or says that it is lost.
  @Test(arguments: [Fault.Persistence.once, .fromThenOn])
  func aSourceThatCannotBeReadCostsThePointAndNothingElse(_ persistence: Fault.Persistence) throws {
    var lossCount = 0
    for call in stride(from: 1, through: 400, by: 29) {
      var setting = Story.Setting()
      setting.sourceFault = Fault(atCall: call, of: [.read, .blockStatus], .io(errno: EIO), persistence)
      try play(setting, seeds: 1) { story in
        #expect(story.losses.allSatisfy { if case .sourceFailed = $0 { true } else { false } }, "\(story.losses)")
        lossCount += story.losses.count
      }
    }
    #expect(lossCount > 0)
  }

  @Test(arguments: [Fault.Persistence.once, .fromThenOn], [BlockError.Kind.io(errno: EIO), .noSpace])
  func aTempThatFailsCostsThePointAndNothingElse(_ persistence: Fault.Persistence, _ kind: BlockError.Kind) throws {
    var lossCount = 0
    for call in stride(from: 1, through: 120, by: 19) {
      for effect in Fault.Effect.allCases {
        var setting = Story.Setting()
        setting.memoryByteCount = 4 * 4096
        setting.tempFault = Fault(atCall: call, kind, persistence, effect: effect)
        try play(setting, seeds: 1) { story in
          lossCount += story.losses.count
          #expect(
            story.losses.allSatisfy { loss in
              if case .storeFailed = loss { true } else { kind == .noSpace && loss == .storeFull }
            }, "\(story.losses)")
        }
      }
    }
    #expect(lossCount > 0 || kind == .noSpace)
  }

  // MARK: Full

  /// So little room that most points find none.
  private func narrow(_ policy: CopyBeforeWrite.OnTempFull) -> Story.Setting {
    var setting = Story.Setting()
    setting.memoryByteCount = 2 * 4096
    setting.tempGrainCount = 6
    setting.options.onTempFull = policy
    return setting
  }

  @Test func aFullTempBreaksTheBackup() throws {
    var lossCount = 0
    try play(narrow(.breakBackup), seeds: 10) { story in
      #expect(story.losses.allSatisfy { $0 == .storeFull } && story.refusedCount == 0)
      lossCount += story.losses.count
    }
    #expect(lossCount > 5)
  }

  @Test func aFullTempBreaksTheGuestsWriteWhereThatIsAsked() throws {
    var refusedCount = 0
    try play(narrow(.breakGuestWrite), seeds: 10) { story in
      #expect(story.losses.isEmpty)
      refusedCount += story.refusedCount
    }
    #expect(refusedCount > 5)
  }

  @Test func aFullTempThrottlesTheGuestForATime() throws {
    var (lossCount, fullCount) = (0, 0 as UInt64)
    try play(narrow(.throttle(latency: .milliseconds(100))), seeds: 10) { story in
      #expect(story.losses.allSatisfy { $0 == .storeFull } && story.refusedCount == 0)
      lossCount += story.losses.count
      for report in story.reports { fullCount += report.fullCount }
    }
    #expect(lossCount > 0 && fullCount > UInt64(lossCount))
  }

  // MARK: Late

  /// Clocks that run ahead of the requests: points are lost at any time.
  @Test func aLateCopyCostsThePointAndNothingElse() throws {
    var setting = Story.Setting()
    setting.impatience = 60
    var lossCount = 0
    try play(setting, seeds: 10) { story in
      #expect(story.losses.allSatisfy { $0 == .timedOut(.seconds(2)) })
      lossCount += story.losses.count
    }
    #expect(lossCount > 5)
  }
}
