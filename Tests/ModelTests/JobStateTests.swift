import Model
import Testing

struct JobStateTests {
  @Test func anEndedJobStaysAsItIs() {
    for state in JobState.allCases where state.isEnded {
      for next in JobState.allCases { #expect(!state.allows(next), "\(state) → \(next)") }
    }
  }

  @Test func everyStateOnTheWayCanBeLeftAndInterrupted() {
    for state in JobState.allCases where !state.isEnded {
      #expect(state.allows(.interrupted))
      #expect(!state.allows(state))
      #expect(state.allows(.queued) == (state == .paused))
      #expect(state.allows(.failed))
    }
  }

  @Test func everyEndCanBeReachedFromTheQueue() {
    var reached: Set<JobState> = [.queued]
    for _ in JobState.allCases {
      for next in JobState.allCases where reached.contains(where: { $0.allows(next) }) { reached.insert(next) }
    }
    #expect(reached == Set(JobState.allCases))
  }
}
