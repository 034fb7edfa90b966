import Glibc

/// Nanoseconds on CLOCK_MONOTONIC: what deadlines are told in.
package struct MonotonicTime: Hashable, Comparable, Sendable {
  package var nanoseconds: UInt64

  package init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }

  package static var now: MonotonicTime {
    var time = Glibc.timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return MonotonicTime(nanoseconds: UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec))
  }

  package static func < (left: MonotonicTime, right: MonotonicTime) -> Bool { left.nanoseconds < right.nanoseconds }

  /// The time `duration` later; a negative duration counts as none, and one past the clock's end as its end.
  package func advanced(by duration: Duration) -> MonotonicTime {
    let (seconds, attoseconds) = duration.components
    guard seconds >= 0, attoseconds >= 0 else { return self }
    let (whole, overflow) = UInt64(seconds).multipliedReportingOverflow(by: 1_000_000_000)
    let (span, spill) = whole.addingReportingOverflow(UInt64(attoseconds) / 1_000_000_000)
    let (sum, past) = nanoseconds.addingReportingOverflow(span)
    return MonotonicTime(nanoseconds: overflow || spill || past ? .max : sum)
  }

  /// Nanoseconds from `earlier` to this, none if it is later.
  package func nanoseconds(since earlier: MonotonicTime) -> UInt64 {
    nanoseconds > earlier.nanoseconds ? nanoseconds - earlier.nanoseconds : 0
  }

  var timespec: Glibc.timespec {
    Glibc.timespec(tv_sec: Int(min(nanoseconds / 1_000_000_000, 1 << 62)), tv_nsec: Int(nanoseconds % 1_000_000_000))
  }
}
