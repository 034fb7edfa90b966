import EventLoops

/// Decides which buffered writes the loop makes by itself, with a plain system call, instead of by way of the kernel's
/// workers.
///
/// A short write into the page cache takes a few microseconds; the way to a worker and back takes several times that.
/// The same call can also block: while the kernel throttles writers, while a journal commits, while a disk hangs. So
/// the loop writes in place only on file systems of local disks, only where the file has nothing else under way, and
/// only as long as such writes keep below ``longestNanoseconds``. After one that doesn't, writes take the other way for
/// a pause, which doubles with each slow write that follows soon.
struct InPlaceWrites {
  /// Longer writes are worth the way to a worker.
  static let longestByteCount = 64 << 10
  /// What a write may take before it counts as slow.
  static let longestNanoseconds: UInt64 = 1_000_000
  static let shortestPause = Duration.milliseconds(100)
  static let longestPause = Duration.seconds(60)
  /// So many quick writes in a row make the next pause the shortest again.
  static let trustedCount = 4096

  /// Whether the file's file system is one of a local disk.
  private let isLocal: Bool
  private var pause = Self.shortestPause
  private var quickCount = 0
  private var resumesAt: MonotonicTime?

  init(isLocal: Bool) { self.isLocal = isLocal }

  /// Whether the loop may write so many bytes itself.
  func allows(byteCount: Int, now: MonotonicTime) -> Bool {
    guard isLocal, byteCount <= Self.longestByteCount else { return false }
    return resumesAt.map { now >= $0 } ?? true
  }

  /// Takes in how long an in-place write took.
  mutating func took(from start: MonotonicTime, to end: MonotonicTime) {
    if end.nanoseconds(since: start) <= Self.longestNanoseconds {
      quickCount += 1
      if quickCount == Self.trustedCount { pause = Self.shortestPause }
    } else {
      quickCount = 0
      resumesAt = end.advanced(by: pause)
      pause = min(Self.longestPause, pause * 2)
    }
  }
}
