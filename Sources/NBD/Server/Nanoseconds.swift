import Glibc

/// A moment on CLOCK_MONOTONIC.
struct Nanoseconds: Sendable {
  private let count: UInt64

  static var now: Nanoseconds {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Nanoseconds(count: UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec))
  }

  /// Nanoseconds from `earlier` to this.
  func since(_ earlier: Nanoseconds) -> UInt64 { count > earlier.count ? count - earlier.count : 0 }
}
