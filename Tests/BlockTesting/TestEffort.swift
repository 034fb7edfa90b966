import Glibc

/// How long the seeded stories run: the environment's `TEST_EFFORT`, a factor from 1 (the default) on.
package enum TestEffort {
  package static let factor: Int = {
    guard let text = getenv("TEST_EFFORT"), let factor = Int(String(cString: text)) else { return 1 }
    return max(1, factor)
  }()

  /// `count` rounds at the default effort, more where more was asked for.
  package static func rounds(_ count: Int) -> Int { count * factor }
}
