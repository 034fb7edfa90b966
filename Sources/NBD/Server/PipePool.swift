import EventLoops
import Locks

/// The pipes of a server, for all its connections: a bounded number, lent and taken back.
final class PipePool: Sendable {
  /// What one pipe takes: as much as any process may ask for (`/proc/sys/fs/pipe-max-size`).
  private static let pipeByteCount = 1 << 20
  /// A pipe that holds less isn't worth its trips.
  private static let leastByteCount = 256 << 10
  /// Two descriptors and at most 1 MiB of the page cache each; a user may have four times as many.
  private static let maximumCount = 16

  private struct State {
    var idle: [Pipe] = []
    var lentCount = 0
    /// The system grants pipes too small, or none: not asked again.
    var isRefused = false
  }

  private let state = Lock(State())

  /// An empty pipe; nil if all are out, or none can be had.
  func take() -> Pipe? {
    state.withLock { state in
      guard !state.isRefused, state.lentCount < Self.maximumCount else { return nil }
      let pipe = state.idle.popLast() ?? (try? Pipe(byteCapacity: Self.pipeByteCount))
      guard let pipe, pipe.byteCapacity >= Self.leastByteCount else {
        state.isRefused = true
        return nil
      }
      state.lentCount += 1
      return pipe
    }
  }

  /// Takes a pipe back; one that isn't empty is of no more use.
  func giveBack(_ pipe: Pipe) {
    state.withLock { state in
      state.lentCount -= 1
      if pipe.byteCount == 0 { state.idle.append(pipe) }
    }
  }

  /// Pipes that are out; 0 when nothing is under way.
  var lentCount: Int { state.withLock { $0.lentCount } }
}
