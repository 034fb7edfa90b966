import BlockTesting
import Testing

/// Backups that are made of what a bitmap calls dirty, and of nothing else, in memory.
struct IncrementStoryTests {
  /// Seeded: changes that fail, in part or whole, growth, backups of every kind that come to an end or not, deletions, and
  /// crashes, in any order. After each step on the chain every backup is read.
  @Test(arguments: 1...4) func noIncrementMissesAChange(seed: UInt64) async throws {
    try await LoopActor().run { _ in
      let story = IncrementStory(seed: seed)
      for _ in 0..<TestEffort.rounds(600) { try await story.step() }
      #expect(story.incrementCount > 60)
    }
  }
}
