import Foundation
import Model

// What a fleecing must be for what is to be done with it.

/// How a fleecing ends.
enum FleecingEnd: Hashable, Sendable {
  case finished(Fleecing.Outcome)
  case expired
  case broken(ProblemDetails)
}

extension Fleecing {
  /// Its moment was taken.
  /// - Parameter checkpoint: that a success sets.
  mutating func begin(_ receipt: FleecingReceipt, checkpoint: ULID, lifetime: Int, at now: Date) {
    state = .active
    pointInTime = receipt.pointInTime
    expiresAt = now + Double(lifetime)
    for index in images.indices {
      guard let part = receipt.parts[images[index].image] else { continue }
      images[index].virtualSize = part.virtualSize
      images[index].dirtyBytes = part.dirtyBytes
      images[index].tracked = part.tracked
    }
    if images.contains(where: { $0.tracked != nil }) { self.checkpoint = checkpoint }
  }

  mutating func end(_ end: FleecingEnd, at now: Date) {
    endedAt = now
    switch end {
    case .finished(let outcome): (state, self.outcome) = (.finished, outcome)
    case .expired: (state, outcome) = (.expired, .failure)
    case .broken(let problem): (state, error) = (.broken, problem)
    }
  }

  /// Throws `fleecingEnded` unless its views are served.
  func requireActive() throws(DomainError) {
    let why: String
    switch state {
    case .active: return
    case .starting: why = "hasn't begun yet"
    case .finishing: why = "is being finished by a job"
    case .finished: why = "is finished"
    case .expired: why = "has expired"
    case .broken: why = "is broken: \(error?.detail ?? "its moment is lost")"
    }
    throw DomainError(
      .fleecingEnded, "the fleecing \(id) \(why)",
      remedy: state == .starting ? "wait for its job" : "begin another fleecing")
  }
}

extension FleecingDraft {
  /// Throws `invalidField` for what needs a base and has none, or has one that isn't of all the images.
  func requireBase(_ images: [Image]) throws(DomainError) {
    if access == .dirty, since == nil {
      throw DomainError(
        .invalidField, "nothing is dirty without a moment to count from",
        faults: [DomainError.Fault(Field("access"), "is 'dirty', and 'since' is missing")])
    }
    if case .backup = since, images.count > 1 {
      throw DomainError(
        .invalidField, "a backup is of one image", remedy: "begin a fleecing for each image",
        faults: [DomainError.Fault(Field("since"), "is a backup, and there are several images")])
    }
  }
}

extension CatalogReading {
  /// Throws `bitmapBusy` if backups go by the tracker.
  func require(_ tracker: TrackerName, forFleecing images: [Image]) throws {
    let live = try liveJobs()
    for image in images {
      let isUsed =
        try newestBackups(of: image.id).contains { $0.tracker == tracker }
        || live.contains { job in
          guard case .backup(let request) = job.request, request.images.contains(image.id) else { return false }
          return (request.tracker ?? .standard(of: request.repository)) == tracker
        }
      guard isUsed || tracker.isStandard else { continue }
      throw DomainError(
        .bitmapBusy, "backups of image '\(image.name)' go by tracker '\(tracker)'",
        remedy: "name another one, or none for '\(Fleecing.standardTracker)'",
        faults: [DomainError.Fault(.tracker, "is a tracker of backups")])
    }
  }

  /// Throws `bitmapBusy` if a fleecing has set a checkpoint for the tracker.
  func require(_ tracker: TrackerName, forBackupOf image: Image) throws {
    guard try fleecingCheckpoints(of: image.id).contains(where: { $0.tracker == tracker }) else { return }
    throw DomainError(
      .bitmapBusy, "tracker '\(tracker)' of image '\(image.name)' is advanced by fleecings",
      remedy: "name another one, or 'default'",
      faults: [DomainError.Fault(.tracker, "is a tracker of fleecings")])
  }

  /// What tells what changed in the image since then. Throws `notFound`, `trackingLost`.
  func base(_ since: Fleecing.Base?, of image: Image) throws -> FleecingOrder.Base? {
    switch since {
    case nil: return nil
    case .bitmap(let name): return .bitmap(name)
    case .backup(let id):
      let backup = try find(id)
      guard backup.image == image.id else {
        throw DomainError(
          .invalidField, "backup \(id) isn't of image '\(image.name)'",
          faults: [DomainError.Fault(Field("since").member("backup"), "is of another image")])
      }
      return try base(backup)
    case .checkpoint(let id):
      if let checkpoint = try fleecingCheckpoints(of: image.id).first(where: { $0.id == id }) {
        return .checkpoint(id, of: checkpoint.tracker, .known(checkpoint.tracked))
      }
      let backups = try allPages { try checkpoints(of: image.id, $0) }
      if let backup = backups.first(where: { $0.checkpoint == id }) { return try base(backup) }
      throw DomainError(
        .notFound, "image '\(image.name)' has no checkpoint \(id)",
        remedy: "list its trackers; a fleecing tells at its finish which checkpoint it set")
    }
  }

  private func base(_ backup: Backup) throws -> FleecingOrder.Base {
    try backup.requireReadable()
    guard let checkpoint = backup.checkpoint, let tracker = backup.tracker else {
      throw DomainError(
        .trackingLost, "no bitmap counts from backup \(backup.id)", remedy: "begin the fleecing without `since`")
    }
    return .checkpoint(checkpoint, of: tracker, .ofBackup(try storedBackup(backup.id).location))
  }

  func liveFleecings() throws -> [Fleecing] {
    try allPages { try fleecings(FleecingFilter(states: Fleecing.State.live), $0) }
  }

  /// Throws `imageInUse` while a fleecing shows the image.
  func requireUnfleeced(_ image: Image) throws {
    guard let fleecing = try liveFleecings().first(where: { $0.part(of: image.id) != nil }) else { return }
    throw DomainError(
      .imageInUse, "the fleecing \(fleecing.id) shows image '\(image.name)'", remedy: "finish it, or delete it")
  }

  /// Throws `queueFull`.
  func requireRoomForFleecing(_ limits: ServiceLimits) throws {
    guard try liveFleecings().count >= limits.liveFleecings else { return }
    throw DomainError(
      .queueFull, "there are \(limits.liveFleecings) live fleecings already", remedy: "finish some of them")
  }
}
