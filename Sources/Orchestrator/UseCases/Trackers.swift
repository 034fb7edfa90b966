import Model

/// A checkpoint of an image: the moment of one of its backups.
package struct CheckpointView: Hashable, Sendable {
  package var backup: Backup
  package var checkpoint: ULID
  package var tracker: TrackerName
  package var repositoryName: ResourceName
}

/// A tracker of an image: a line of its backups, with the bitmap that the next one goes by, in the image or beside the
/// server's state.
package struct TrackerView: Hashable, Sendable {
  package enum State: String, Sendable, CaseIterable {
    /// Changes are recorded, by this program and by QEMU.
    case recording
    /// A backup is being made in its line.
    case busy
    /// It rests: the next backup compares by hash.
    case disabled
    /// It missed changes: the next backup compares by hash.
    case inconsistent
  }

  /// What advances it.
  package enum Owner: String, Sendable, CaseIterable { case backup, fleecing }

  package var name: TrackerName
  /// What its bitmap counts from; nil if from none.
  package var checkpoint: ULID?
  /// The newest complete backup of its line; nil if the catalog has none.
  package var lastBackup: BackupID?
  /// The bitmap's name.
  package var bitmap: String
  /// Where its line is; nil if that isn't known.
  package var repository: RepositoryID?
  package var state: State
  package var owner: Owner
}

extension BackupService {
  /// The trackers that the image has, in order of name; an image that can't be opened is refused as such.
  package func trackers(of reference: Reference<Image>) async throws -> [TrackerView] {
    let image = try image(reference)
    let inspection = try await inspectImage(reference)
    return try transactions.read { try Self.trackers(of: image, as: inspection, in: $0) }
  }

  private static func trackers(
    of image: Image, as inspection: ImageInspection, in catalog: any CatalogReading
  ) throws -> [TrackerView] {
    let lines = try catalog.newestBackups(of: image.id)
    let fleeced = Set(try catalog.fleecingCheckpoints(of: image.id).map(\.tracker))
    let busy = try catalog.liveJobs().compactMap { job -> TrackerName? in
      guard case .backup(let request) = job.request, request.images.contains(image.id), job.state != .queued else {
        return nil
      }
      return request.tracker ?? .standard(of: request.repository)
    }
    let inImage = inspection.bitmaps.compactMap { bitmap in
      TrackerBitmapName(bitmap.name).map {
        ImageInspection.Tracker(name: $0, enabled: bitmap.enabled, inconsistent: bitmap.inconsistent)
      }
    }
    var newest: [TrackerName: ImageInspection.Tracker] = [:]
    for found in inImage + inspection.sidecars {
      if newest[found.name.tracker].map({ $0.name.checkpoint < found.name.checkpoint }) ?? true {
        newest[found.name.tracker] = found
      }
    }
    return newest.values.sorted { $0.name.tracker.text < $1.name.tracker.text }.map { found in
      let name = found.name
      let own = lines.filter { $0.tracker == name.tracker }
      let line = own.first { $0.checkpoint == name.checkpoint } ?? own.last
      return TrackerView(
        name: name.tracker, checkpoint: name.checkpoint == TrackerBitmapName.noCheckpoint ? nil : name.checkpoint,
        lastBackup: line?.id, bitmap: name.text, repository: line?.repository,
        state: busy.contains(name.tracker) ? .busy : State(of: found, isAttached: image.attachment != nil),
        owner: fleeced.contains(name.tracker) ? .fleecing : .backup)
    }
  }

  private typealias State = TrackerView.State

  /// Takes the tracker's bitmap out of the image: its backups stay, and the next one in its line compares by hash.
  /// Throws `notFound` if the image carries no such tracker, `imageInUse` while the image is attached or a job uses it,
  /// and, with what remains to be done by hand, why the image can't be written.
  package func deleteTracker(
    _ name: String, of reference: Reference<Image>, _ conditions: ChangeConditions<TrackingRemoval> = ChangeConditions()
  ) async throws -> Answer<TrackingRemoval> {
    let image = try image(reference)
    let known = try await trackers(of: reference)
    guard let tracker = known.first(where: { $0.name.text == name }) else {
      throw DomainError(
        .notFound, "image '\(image.name)' carries no tracker '\(name)'",
        remedy: known.isEmpty ? "it carries none" : "it carries \(known.map(\.name.text).joined(separator: ", "))")
    }
    guard !conditions.dryRun else {
      try transactions.read { try $0.requireUnused(try $0.find(reference)) }
      return .planned(
        Plan(
          action: "delete-tracker", steps: ["remove the bitmap \(tracker.bitmap) of \(image.source.place)"],
          warnings: ["the next backup of '\(image.name)' in its line compares by hash"],
          resource: .tracker(tracker.name, of: image.id)))
    }
    // What the image carries changes: its listeners learn of it.
    try await transactions.write(by: conditions.caller) { transaction in
      let image = try transaction.catalog.find(reference)
      try transaction.catalog.requireUnused(image)
      try transaction.update(image)
    }
    let removal = await engine.removeTracking(from: image.location, tracker: tracker.name)
    if let failure = removal.failure {
      throw DomainError(
        failure.code, "the bitmap \(tracker.bitmap) of the image stays: \(failure.detail)",
        remedy: ([failure.remedy] + removal.commands(path: image.source.place)).compactMap(\.self).joined(
          separator: "; or: "))
    }
    return .done(removal)
  }

  /// As far as the storage answers in time: nobody waits for a silent one to have an image forgotten.
  func removeTracking(from image: Image) async -> TrackingRemoval {
    let engine = engine
    return await BackgroundTasks.result(within: limits.lookTurn, by: transactions.time) {
      await engine.removeTracking(from: image.location, tracker: nil)
    }
      ?? TrackingRemoval(
        failure: ProblemDetails(
          DomainError(.notReady, "the storage of \(image.source.place) doesn't answer: bitmaps may stay in it")))
  }
  /// The checkpoints of an image's backups, oldest first.
  package func checkpoints(of reference: Reference<Image>, _ page: PageRequest) throws -> Page<CheckpointView> {
    try transactions.read { catalog in
      try catalog.checkpoints(of: try catalog.find(reference).id, page).mapItems { backups in
        let repositories = try catalog.repositories(Set(backups.map(\.repository)))
        return backups.compactMap { backup in
          guard let checkpoint = backup.checkpoint, let tracker = backup.tracker,
            let repository = repositories[backup.repository]
          else { return nil }
          return CheckpointView(
            backup: backup, checkpoint: checkpoint, tracker: tracker, repositoryName: repository.name)
        }
      }
    }
  }
}

extension TrackerView.State {
  /// The bitmaps of an attached image are in use in its file, and recorded.
  fileprivate init(of found: ImageInspection.Tracker, isAttached: Bool) {
    self = !found.enabled ? .disabled : found.inconsistent && !isAttached ? .inconsistent : .recording
  }
}
