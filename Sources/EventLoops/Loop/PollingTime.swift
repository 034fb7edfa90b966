/// How long a loop with nothing to do polls before it sleeps.
///
/// To fall asleep and be woken takes longer than to answer a request from the page cache, on an idle core several times
/// as long. So where sleeps turn out short, the loop polls instead. Where polling finds nothing (none came, or the
/// thread that should bring it needs this very core), it takes ever more short sleeps until the loop polls again.
struct PollingTime {
  /// Sleeps that are shorter would better have been spent awake: most of one is the falling asleep and the waking.
  private static let shortNanoseconds: UInt64 = 100_000
  /// How long the loop may poll at once.
  private static let limitNanoseconds: UInt64 = 60_000
  /// Short sleeps, at most, between two tries.
  private static let longestPause = 1024

  /// How long to poll the next time.
  private(set) var nanoseconds: UInt64 = 0
  private var shortSleepCount = 0
  /// Short sleeps that bring the next try.
  private var pause = 1

  mutating func slept(nanoseconds slept: UInt64) {
    shortSleepCount = slept < Self.shortNanoseconds ? shortSleepCount + 1 : 0
    guard shortSleepCount >= pause else { return }
    shortSleepCount = 0
    nanoseconds = Self.limitNanoseconds
  }

  /// The loop polled, and something happened.
  mutating func foundWork() { pause = max(1, pause / 2) }

  /// The loop polled in vain.
  mutating func foundNothing() {
    nanoseconds = 0
    pause = min(Self.longestPause, pause * 2)
  }
}
