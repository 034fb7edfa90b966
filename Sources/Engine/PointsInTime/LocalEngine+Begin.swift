import BlockCore
import EventLoops
import Failures
import Foundation
import Glibc
import Locks
import Model
import Repositories

// How images of one group come to one moment.
//
// P1. Images are held in order of id, so that two groups never wait for each other in a circle.
// P2. The moment is when all are held. No byte of any is read before it. One at rest stays held until it is stored; of an
//     attached one a view begins, see ``AttachedPoint``: no change of any of them is in flight then (``GraphBarrier``).
// P3. What a backup will be (kind, chain, place in it, parent) is decided before the moment, under the image's lease: nothing
//     of that can change until then. What the bitmap says is as of the moment.
// P4. One that can't be held leaves nothing behind. Unless the group continues without it, neither do the others. A moment
//     that can't be had fails them all.
extension LocalEngine {
  package func begin(_ group: GroupOrder, control: any JobControl) async throws -> [BackupBeginning] {
    var held: [BackupID: BegunBackup] = [:]
    var failures: [BackupID: ProblemDetails] = [:]
    do {
      for order in group.backups.sorted(by: { $0.image.id < $1.image.id }) {
        // The first is held at once, as a group of one always is.
        if !held.isEmpty || !failures.isEmpty { try await control.checkpoint() }
        do {
          held[order.backup] = try await hold(order, control)
        } catch let error as DomainError {
          failures[order.backup] = ProblemDetails(error)
          guard group.continuesAfterFailure else {
            await letGo(Array(held.values), control)
            return group.backups.map { .failed(failures[$0.backup] ?? Self.lost(with: order, error)) }
          }
        }
      }
    } catch {
      await letGo(Array(held.values), control)
      throw error
    }
    do {
      let moment = try await comeToMoment(&held, control)
      return group.backups.map { order in
        guard var backup = held[order.backup] else { return .failed(failures[order.backup] ?? Self.unheld) }
        backup.plan.pointInTime = moment
        begunBackups.put(backup)
        return .begun(backup.plan)
      }
    } catch {
      await letGo(Array(held.values), control)
      throw error
    }
  }

  /// The moment of all that are held.
  private func comeToMoment(_ held: inout [BackupID: BegunBackup], _ control: any JobControl) async throws -> Date {
    let attached = held.values.compactMap { backup -> (BackupID, AttachedPoint)? in
      if case .attached(let point) = backup.image { (backup.order.backup, point) } else { nil }
    }
    guard !attached.isEmpty else { return clock.now() }
    let backups = Dictionary(uniqueKeysWithValues: attached.map { (ObjectIdentifier($1.graph), ($0, $1)) })
    let taken = Lock(held)
    try await GraphBarrier(graphs: attached.map(\.1.graph)).runPatiently { graph in
      guard let (id, point) = backups[ObjectIdentifier(graph)], var backup = taken.withLock({ $0[id] }) else { return }
      point.take(in: graph, for: &backup, control: control)
      taken.withLock { $0[id] = backup }
    }
    let moment = clock.now()
    held = taken.withLock { $0 }
    for (_, point) in attached { try await onLoop(point.graph.loop) { _ in point.momentHasPassed() } }
    return moment
  }

  package func abandon(_ backups: [BackupID]) async {
    await letGo(backups.compactMap { begunBackups.take($0) }, nil)
  }

  /// How often an image is looked for anew because it was attached or detached meanwhile.
  private static let holdAttempts = 8

  /// Holds the image, takes its lease, and begins its stage.
  private func hold(_ order: BackupOrder, _ control: any JobControl) async throws -> BegunBackup {
    try await withSettledImage(order.image.id, order.image.source, in: order.repository.lane, control) {
      [self] graph, loop in
      let repository = try await openToWrite(order.repository, on: loop)
      let image = try await heldImage(
        order.image.id, order.location, graph, for: .job("backup", control.job), on: loop, control)
      return try await attempt {
        try await hold(image, order, in: repository, on: loop, control)
      } orCleanUp: {
        await image.letGo()
      }
    }
  }

  /// Runs `body` on the image's loop with its graph if it is attached, and anew where it was attached or detached
  /// meanwhile.
  func withSettledImage<Result: Sendable>(
    _ image: ImageID, _ source: ImageSource, in lane: BlockingLane, _ control: any JobControl,
    _ body: @Sendable @escaping (ImageGraph?, EventLoop) async throws -> Result
  ) async throws -> Result {
    for _ in 0..<Self.holdAttempts {
      let changeCount = attachedImages.changeCount
      let graph = attachedImages.graph(of: image)
      do {
        return try await onLoop(graph?.loop, for: control.job, in: lane) { try await body(graph, $0) }
      } catch let error as DomainError
        where [.imageLocked, .imageInUse, .imageNotAttached].contains(error.code)
        && attachedImages.changeCount != changeCount
      {}
    }
    throw DomainError(
      .imageInUse, "\(source.place) is attached and detached all the time", remedy: "start again when it rests")
  }

  /// Opens the image, or joins those that use it while it is attached.
  nonisolated(nonsending)
    func heldImage(
      _ id: ImageID, _ location: ImageLocation, _ graph: ImageGraph?, for user: ImageUser, on loop: EventLoop,
      _ control: any JobControl
    ) async throws -> HeldImage
  {
    if let graph {
      let point = try AttachedPoint(
        graph, id, among: attachedImages, for: ImageUse(user, needs: .read),
        latency: { [servedExports] in servedExports.latency(of: id) })
      return .attached(point)
    }
    let image = try await openToBackUp(location, for: user, on: loop, control)
    if case .nbd(let uri) = location.source {
      control.log(.warning, "\(uri): nothing can prove that it isn't written to while it is read")
    }
    return .atRest(image)
  }

  nonisolated(nonsending)
    private func hold(
      _ held: HeldImage, _ order: BackupOrder, in repository: any BackupRepository, on loop: EventLoop,
      _ control: any JobControl
    ) async throws -> BegunBackup
  {
    let image = held.image
    let trackers = trackerStore(of: held, on: loop)
    var identity: ImageIdentity?
    if order.kind != .copy {
      try await telling(about: image.name) {
        try await StoredTracker.requirePlace(for: order.tracker, among: trackers, of: image.name)
        if trackers.countsByIdentity { identity = try await settledIdentity(of: image, on: loop, control) }
      }
    }
    let lease = try await repository.takeLease(on: order.image.id, control: control)
    return try await attempt {
      if case .attached(let point) = held, order.kind != .copy { try await point.reserveBitmaps(on: loop) }
      let wanted = BackupDecision(
        order: order, chain: try await repository.newestChain(of: order.image.id, tracker: order.tracker),
        tracker: explained(
          try await telling(about: image.name) { try await trackers.find(order.tracker) }, of: image),
        byteCount: held.byteCount, moment: clock.now())
      let (plan, base) = try await decisionThatHolds(wanted, in: repository, control).plan
      let place = StoredBackupLocation(
        repository: order.repository, image: order.image.id, chain: plan.chain, sequence: plan.sequence,
        backup: order.backup)
      let stage = try await lease.begin(place, of: order.image, for: control.job)
      return try await attempt {
        let parent = (base?.parent).map { stored($0, in: repository) }
        let counted = (base?.tracked?.from.checkpoint).map {
          TrackerBitmapName(tracker: order.tracker, checkpoint: $0).bytes
        }
        var begun = BegunBackup(
          order, held, in: repository, lease, stage, on: loop, for: control.job, plan, over: parent,
          countedBy: counted, sampledShare: configuration.sampledCheck,
          checkpoint: plan.kind == .copy ? nil : newCheckpoint(of: image, identity))
        begun.identity = identity
        if let parent, let (from, bits) = base?.tracked {
          begun.setChanges(
            try await changes(bits, of: stored(from, in: repository), since: parent), byteCount: held.byteCount)
        }
        if case .attached(let point) = held {
          try await point.prepare(begun.checkpoint, fleecing, records, pool: pool)
        }
        return begun
      } orCleanUp: {
        _ = await stage.discard()
      }
    } orCleanUp: {
      await lease.giveBack()
    }
  }

  /// What the image's files are before the first of their bytes is read; nil if they go on being changed.
  nonisolated(nonsending)
    func settledIdentity(
      of image: OpenImage, on loop: EventLoop, _ control: any JobControl
    ) async throws -> ImageIdentity?
  {
    guard let resolution = configuration.tracking?.timeResolution else { return nil }
    do throws(SystemError) {
      let identity = try await image.settledIdentity(resolution, on: loop)
      if identity == nil {
        control.log(.info, "\(image.name) goes on being changed, so no bitmap counts from this backup")
      }
      return identity
    } catch {
      if error.code == ECANCELED { throw error }
      control.log(.info, "\(image.name) can't be flushed, so no bitmap counts from this backup: \(error)")
      return nil
    }
  }

  private func letGo(_ backups: [BegunBackup], _ control: (any JobControl)?) async {
    for backup in backups {
      do {
        let left = try await onLoop(backup.loop, for: backup.job, in: backup.order.repository.lane) { _ in
          await backup.letGo()
        }
        for text in left { control?.log(.warning, "a leftover couldn't be removed, recovery will try again: \(text)") }
      } catch {
        logger.error("letting go of \(backup.image.name): \(error)")
      }
    }
  }

  private static func lost(with order: BackupOrder, _ error: DomainError) -> ProblemDetails {
    ProblemDetails(
      DomainError(
        .pointInTimeLost, "image '\(order.image.name)' couldn't be held at the moment of its group: \(error.detail)",
        remedy: "mend that, or ask with \"onFailure\": \"continue\" to back up the others without it"))
  }

  private static var unheld: ProblemDetails {
    ProblemDetails(DomainError(.internalError, "the image was not held"))
  }
}
