import EventLoops
import Failures
import Locks
import Model

/// The leases that this server holds: jobs on the same image of a repository share one.
final class LeaseTable: Sendable {
  private struct Key: Hashable {
    var repository: RepositoryID
    var image: ImageID
  }

  private enum Entry {
    case taking
    case held(Lease, users: Int)
    /// Its last user gives it up.
    case releasing
  }

  private enum Wish: Sendable {
    case use(Lease)
    case take
    case wait
  }

  private let writer: ULID
  private let timing: LeaseTiming
  private let entries = Lock<[Key: Entry]>([:])

  /// Between two looks at a lease that is in transition here, or another server's.
  private static let shortPause = Duration.milliseconds(10)

  init(writer: ULID, timing: LeaseTiming) {
    self.writer = writer
    self.timing = timing
  }

  /// Takes the image's lease, or a share of it, and renews it until it is given back.
  /// - Throws: `repositoryLeased` if another server holds it and lives.
  nonisolated(nonsending)
    func take(
      _ image: ImageID, of repository: RepositoryFolder, loop: EventLoop, control: any JobControl
    ) async throws -> HeldLease
  {
    let key = Key(repository: repository.location.id, image: image)
    let lease = try await obtain(key, repository, loop, control)
    let renewal = Task(executorPreference: loop) { [timing] in
      while !Task.isCancelled {
        do throws(SystemError) { try await loop.sleep(for: timing.interval) } catch { return }
        await loop.blocking {
          do { try lease.beat() } catch { control.log(.warning, "the lease wasn't renewed: \(error)") }
        }
      }
    }
    return HeldLease(lease: lease, renewal: renewal) { [self] in await giveBack(key, loop) }
  }

  /// Takes the lease only if that needs no waiting, and no job of this server uses it; nil otherwise.
  nonisolated(nonsending)
    func withIdleLease<Result: Sendable>(
      on image: ImageID, of repository: RepositoryFolder, loop: EventLoop,
      _ body: @Sendable @escaping (Lease) throws -> Result
    ) async throws -> Result?
  {
    let key = Key(repository: repository.location.id, image: image)
    let isIdle = entries.withLock { entries in
      if entries[key] != nil { return false }
      entries[key] = .taking
      return true
    }
    guard isIdle else { return nil }
    defer { entries.withLock { $0[key] = nil } }
    let files = repository.files
    return try await loop.blocking(about: repository.location.path) { [writer, timing] in
      guard case .taken(let lease) = try Lease.attempt(image, in: files, writer: writer, timing: timing) else {
        return nil
      }
      defer { lease.release() }
      return try body(lease)
    }
  }

  nonisolated(nonsending)
    private func obtain(
      _ key: Key, _ repository: RepositoryFolder, _ loop: EventLoop, _ control: any JobControl
    ) async throws -> Lease
  {
    while true {
      switch wish(for: key) {
      case .use(let lease): return lease
      case .wait: try await pause(Self.shortPause, loop, control)
      case .take:
        do {
          let lease = try await take(key, repository, loop, control)
          entries.withLock { $0[key] = .held(lease, users: 1) }
          return lease
        } catch {
          entries.withLock { $0[key] = nil }
          throw error
        }
      }
    }
  }

  private func wish(for key: Key) -> Wish {
    entries.withLock { entries in
      switch entries[key] {
      case .held(let lease, let users):
        entries[key] = .held(lease, users: users + 1)
        return .use(lease)
      case .taking, .releasing: return .wait
      case nil:
        entries[key] = .taking
        return .take
      }
    }
  }

  /// Takes a free lease at once; waits out one whose holder gives no sign for its whole time, by our own clock.
  nonisolated(nonsending)
    private func take(
      _ key: Key, _ repository: RepositoryFolder, _ loop: EventLoop, _ control: any JobControl
    ) async throws -> Lease
  {
    var observed: (bytes: [UInt8], since: ContinuousClock.Instant, timeout: Duration)?
    while true {
      let (files, since) = (repository.files, observed)
      let attempt = try await loop.blocking(about: repository.location.path) { [writer, timing, key] in
        let expired = since.flatMap { .now - $0.since > $0.timeout ? $0.bytes : nil }
        return try Lease.attempt(key.image, in: files, writer: writer, timing: timing, expired: expired)
      }
      switch attempt {
      case .taken(let lease): return lease
      case .heldHere: throw leased(key, repository, "another process on this host")
      case .heldElsewhere(let bytes, let theirs):
        if let observed, observed.bytes != bytes { throw leased(key, repository, "another server") }
        if observed == nil {
          control.log(.info, "waiting \(theirs.duration) for another server's lease on the image's folder to expire")
          observed = (bytes, .now, theirs.duration)
        }
        try await pause(theirs.duration / 10, loop, control)
      }
    }
  }

  nonisolated(nonsending)
    private func giveBack(_ key: Key, _ loop: EventLoop) async
  {
    let last: Lease? = entries.withLock { entries in
      guard case .held(let lease, let users) = entries[key] else { return nil }
      entries[key] = users > 1 ? .held(lease, users: users - 1) : .releasing
      return users > 1 ? nil : lease
    }
    guard let last else { return }
    await loop.blocking { last.release() }
    entries.withLock { $0[key] = nil }
  }

  nonisolated(nonsending)
    private func pause(_ duration: Duration, _ loop: EventLoop, _ control: any JobControl) async throws
  {
    try await control.checkpoint()
    do throws(SystemError) { try await loop.sleep(for: duration) } catch { throw CancellationError() }
  }

  private func leased(_ key: Key, _ repository: RepositoryFolder, _ who: String) -> DomainError {
    DomainError(
      .repositoryLeased,
      "\(who) is writing to the backups of image \(key.image) in the repository \(repository.location.path)",
      remedy: "wait until it has finished, then start the job again")
  }
}

/// One use of a lease that this server holds.
struct HeldLease: Sendable {
  let lease: Lease
  fileprivate let renewal: Task<Void, Never>
  fileprivate let end: nonisolated(nonsending) @Sendable () async -> Void

  /// To be called once; the last use gives up the lease itself.
  nonisolated(nonsending)
    func giveBack() async
  {
    renewal.cancel()
    await renewal.value
    await end()
  }
}
