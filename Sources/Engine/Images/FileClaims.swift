import EventLoops
import Locks
import Model
import RawFile

/// What the engine has image files open for, and how one use waits for another.
///
/// An `ImageLock` keeps out this process as well as others, for each opening has an open file description of its own.
/// But a lock neither tells whose it is nor can be waited for. So each opening claims its files here first:
///
/// C1. A claim stands before the file's lock is taken, and until the lock is released.
/// C2. A claim waits for those that exclude it and are *passing*: a look at an image, an image that is being opened or
///     closed. It waits at most ``timeout``. What lasts (an attached image, a job, an export) refuses it at once.
/// C3. A claim doesn't overtake an earlier one that waits and that it excludes: an attach gets its turn although
///     clients keep on reading.
///
/// Openings claim an image's files from the image down to its last backing file, so two of them never wait for each
/// other in a circle.
package final class FileClaims: Sendable {
  /// How long one opening waits for passing claims, over all its files.
  package static let timeout = Duration.seconds(10)
  /// The time between two tries.
  private static let pause = Duration.milliseconds(5)

  /// Which file a claim is on, whatever name led there.
  private struct File: Hashable {
    var device: UInt64
    var inode: UInt64
  }

  private struct Entry {
    let id: UInt64
    let lock: ImageLock
    let use: ImageUse
    var isStanding = false
  }

  private struct State {
    var lastID: UInt64 = 0
    /// In order of arrival.
    var entries: [File: [Entry]] = [:]
  }

  private enum Answer {
    case stands
    case waits(for: ImageUse)
    case refused(by: ImageUse)
  }

  private let state = Lock(State())

  package init() {}

  /// Claims the file as `lock` says, until the claim is given up.
  /// - Throws: `imageLocked`, which names the use of this engine that stands against it; `CancellationError`.
  nonisolated(nonsending)
    package func claim(
      _ status: FileStatus, _ path: String, _ lock: ImageLock, for use: ImageUse,
      until deadline: ContinuousClock.Instant, on loop: EventLoop
    ) async throws -> FileClaim
  {
    let file = File(device: status.device, inode: status.inode)
    let id = enter(file, lock, use)
    let claim = FileClaim { [self] in leave(file, id) }
    while true {
      switch answer(id, on: file) {
      case .stands: return claim
      case .refused(let other): throw Self.refusal(path, other)
      case .waits(let other):
        guard ContinuousClock.now < deadline else { throw Self.refusal(path, other) }
      }
      do throws(SystemError) { try await loop.sleep(for: Self.pause) } catch { throw CancellationError() }
    }
  }

  private func enter(_ file: File, _ lock: ImageLock, _ use: ImageUse) -> UInt64 {
    state.withLock { state in
      state.lastID += 1
      state.entries[file, default: []].append(Entry(id: state.lastID, lock: lock, use: use))
      return state.lastID
    }
  }

  private func leave(_ file: File, _ id: UInt64) {
    state.withLock { state in
      state.entries[file]?.removeAll { $0.id == id }
      if state.entries[file]?.isEmpty == true { state.entries[file] = nil }
    }
  }

  private func answer(_ id: UInt64, on file: File) -> Answer {
    state.withLock { state in
      guard let entries = state.entries[file], let index = entries.firstIndex(where: { $0.id == id }) else {
        preconditionFailure("a claim that isn't entered")
      }
      for other in entries[..<index] where other.lock.excludes(entries[index].lock) {
        return other.isStanding && !other.use.isPassing ? .refused(by: other.use) : .waits(for: other.use)
      }
      state.entries[file]?[index].isStanding = true
      return .stands
    }
  }

  private static func refusal(_ path: String, _ other: ImageUse) -> DomainError {
    DomainError(
      .imageLocked, "\(path) is in use by this server itself: \(other.user.words)",
      remedy: "wait until that has ended, or end it")
  }
}

/// One claim on one file. It ends with its last reference.
package final class FileClaim: Sendable {
  private let end: @Sendable () -> Void

  fileprivate init(end: @Sendable @escaping () -> Void) { self.end = end }

  deinit { end() }
}
