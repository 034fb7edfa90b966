import Foundation

/// What time it is, for everything that is stored or shown. Tests bring their own.
package protocol WallClock: Sendable {
  func now() -> Date
}

package struct SystemWallClock: WallClock {
  package init() {}

  /// To the millisecond, which is what is stored.
  package func now() -> Date {
    Date(timeIntervalSince1970: (Date().timeIntervalSince1970 * 1000).rounded(.down) / 1000)
  }
}
