import Model
import Orchestrator

extension RequestFields {
  /// The body that starts a backup.
  func backupDraft(imageLimit: Int) throws(DomainError) -> BackupDraft {
    let images = references("images", to: Image.self, atMost: imageLimit)
    let repository = reference("repository", to: Repository.self)
    let kind = choice("kind", of: RequestedBackupKind.self, required: false)
    let tracker = tracker()
    let compression = choice("compression", of: Compression.self, required: false)
    let speedLimit = count("speedLimit", unit: "bytes per second", required: false)
    let onFailure = choice("onFailure", of: FailurePolicy.self, required: false)
    let onTempFull = onTempFull()
    let latencyBudget = object("guestLatencyBudget", required: false).flatMap(guestLatencyBudget)
    try finish()
    guard let images, let repository else { throw Self.incomplete }
    return BackupDraft(
      images: images, repository: repository, kind: kind ?? .full, tracker: tracker, compression: compression ?? .zstd,
      speedLimit: speedLimit ?? 0, onFailure: onFailure ?? .fail, onTempFull: onTempFull,
      guestLatencyBudget: latencyBudget)
  }

  /// The body that starts a verification.
  func verifyLevel() throws(DomainError) -> VerifyLevel {
    let level = choice("level", of: VerifyLevel.self, required: false)
    try finish()
    return level ?? .checksum
  }

  /// The body that starts a restore.
  func restoreDraft() throws(DomainError) -> RestoreDraft {
    let target = object("target")
    let draft = target.flatMap(restoreTarget)
    try finish()
    guard let draft else { throw Self.incomplete }
    return draft
  }

  /// The body that starts the restore of a group.
  func groupRestoreDraft(imageLimit: Int) throws(DomainError) -> GroupRestoreDraft {
    let targets = objects("targets", atMost: imageLimit)
    let members = targets?.map { item -> GroupRestoreDraft.Member? in
      let image = item.reference("image", to: Image.self)
      let target = item.object("target").flatMap { restoreTarget($0, isConfirmable: false) }
      guard let image, let target else { return nil }
      return GroupRestoreDraft.Member(image: image, target: target)
    }
    let confirm = string("confirm", required: false)
    try finish()
    guard let members else { throw Self.incomplete }
    return GroupRestoreDraft(members.compactMap(\.self), confirm: confirm)
  }

  private func restoreTarget(_ target: RequestFields) -> RestoreDraft? { restoreTarget(target, isConfirmable: true) }

  private func restoreTarget(_ target: RequestFields, isConfirmable: Bool) -> RestoreDraft? {
    switch target.choice("kind", of: RestoreTargetKind.self) {
    case .file:
      let path = target.absolutePath("path")
      let format = target.choice("format", of: DiskFormat.self)
      guard let path, let format else { return nil }
      return .newFile(path: path, format: format)
    case .image:
      // Asked for at once with the image, so that each is known even where the other is wrong.
      let confirm = isConfirmable ? string("confirm", required: false) : nil
      let outer = isConfirmable ? choice("mode", of: RestoreMode.self, required: false) : nil
      let mode = target.choice("mode", of: RestoreMode.self, required: false)
      if let outer, let mode, outer != mode { refuse("mode", "isn't what the target's says") }
      guard let image = target.reference("image", to: Image.self) else { return nil }
      return .image(image, confirm: confirm, mode: mode ?? outer ?? .auto)
    case .nbd:
      let isZero = target.boolean("targetIsZero", required: false)
      return target.nbdURI("uri").map { .nbd(uri: $0, targetIsZero: isZero ?? false) }
    case nil:
      return nil
    }
  }

  enum RestoreTargetKind: String, CaseIterable {
    case file, image, nbd
  }

  private func onTempFull() -> OnTempFull {
    let wanted = choice("onTempFull", of: TempFullChoice.self, required: false)
    let field = "throttleLatencyMicroseconds"
    let latency = count(field, unit: "microseconds", required: false)
    if let latency {
      let range = OnTempFull.throttleLatencies
      if !range.contains(latency) { refuse(field, "must be from \(range.lowerBound) to \(range.upperBound)") }
      if wanted != .throttle { refuse(field, "means something only with \"onTempFull\": \"throttle\"") }
    }
    return switch wanted {
    case .breakBackup, nil: .breakBackup
    case .throttle: .throttle(latencyMicroseconds: latency ?? OnTempFull.standardThrottleLatency)
    case .breakGuestWrite: .breakGuestWrite
    }
  }

  private func guestLatencyBudget(_ fields: RequestFields) -> GuestLatencyBudget? {
    func bounded(_ name: String, _ unit: String, _ range: ClosedRange<UInt64>) -> UInt64? {
      guard let number = fields.count(name, unit: unit, required: false) else { return nil }
      if !range.contains(number) { fields.refuse(name, "must be from \(range.lowerBound) to \(range.upperBound)") }
      return number
    }
    let percent = bounded("percent", "percent", GuestLatencyBudget.percents)
    let microseconds = bounded("microseconds", "microseconds", GuestLatencyBudget.durations)
    switch (percent, microseconds) {
    case (let percent?, nil): return .percent(percent)
    case (nil, let microseconds?): return .microseconds(microseconds)
    default:
      refuse("guestLatencyBudget", "must have either percent or microseconds")
      return nil
    }
  }

  enum TempFullChoice: String, CaseIterable {
    case breakBackup, throttle, breakGuestWrite
  }

  /// Nil for the repository's own.
  private func tracker() -> TrackerName? {
    guard let text = string("tracker", required: false), text != TrackerName.standardAlias else { return nil }
    let tracker = TrackerName(text)
    if tracker == nil { refuse("tracker", "isn't one: \(TrackerName.rule)") }
    return tracker
  }
}

extension RequestFields {
  /// The body of an action that takes no fields.
  func nothing() throws(DomainError) {
    try finish()
  }
}
