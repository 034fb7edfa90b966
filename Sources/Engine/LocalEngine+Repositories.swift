import EventLoops
import Model
import Repositories

extension LocalEngine {
  nonisolated(nonsending)
    func open(_ location: RepositoryLocation, on loop: EventLoop) async throws -> any BackupRepository
  {
    let repository = try await repositories.open(location, on: loop)
    note(repository.repair, of: location)
    return repository
  }

  /// As ``open(_:on:)``, for work that writes. Throws `repositoryReadOnly` before anything is done.
  nonisolated(nonsending)
    func openToWrite(_ location: RepositoryLocation, on loop: EventLoop) async throws -> any BackupRepository
  {
    let repository = try await open(location, on: loop)
    guard try await repository.access() == .readWrite else {
      throw DomainError(
        .repositoryReadOnly, "the storage of the repository \(location.path) takes no writes",
        remedy: "mount it to be written, and give the server's user access to it")
    }
    return repository
  }

  /// Whatever opens a repository puts it right: the log tells at once, and the next scan as a finding.
  private func note(_ repair: String?, of location: RepositoryLocation) {
    guard let repair, untoldRepairs.withLock({ $0.updateValue(repair, forKey: location.id) }) != repair else { return }
    logger.warning("a repository was put right", metadata: ["path": "\(location.path)", "what": "\(repair)"])
  }

  package func openRepository(at path: String, id: RepositoryID) async throws -> RepositoryID {
    try await onLoop(in: .folder(path)) { [self] loop in
      let made = try await repositories.establish(at: path, id: id, now: clock.now(), on: loop)
      note(made.repair, of: RepositoryLocation(id: made.id, path: path))
      return made.id
    }
  }

  package func access(to location: RepositoryLocation) async throws -> RepositoryAccess {
    try await onLoop(in: location.lane) { [self] loop in try await open(location, on: loop).access() }
  }

  package func scan(_ location: RepositoryLocation) async throws -> RepositoryScan {
    try await onLoop(in: location.lane) { [self] loop in
      var scan = try await open(location, on: loop).scan()
      if let repair = untoldRepairs.withLock({ $0.removeValue(forKey: location.id) }) {
        scan.findings.insert(repair, at: 0)
      }
      return scan
    }
  }

  package func recover(_ location: RepositoryLocation, liveJobs: Set<JobID>) async throws -> RecoveryReport {
    try await onLoop(in: location.lane) { [self] loop in
      let repository = try await open(location, on: loop)
      let access = try await repository.access()
      guard access == .readWrite else { return RecoveryReport(removed: [], quarantined: [], access: access) }
      let report = try await repository.recover { [calls, begunBackups] in
        liveJobs.contains($0) || calls.isLive($0) || begunBackups.isLive($0)
      }
      for path in report.removed { logger.debug("removed a leftover", metadata: ["path": "\(path)"]) }
      for path in report.quarantined { logger.debug("set aside", metadata: ["path": "\(path)"]) }
      return report
    }
  }

  package func record(_ image: ImageRecord, in location: RepositoryLocation) async throws {
    let job = JobID()
    try await onLoop(for: job, in: location.lane) { [self] loop in
      try await openToWrite(location, on: loop).record(image, job: job)
    }
  }

  package func delete(_ backup: StoredBackupLocation, control: any JobControl) async throws {
    try await onLoop(in: backup.repository.lane) { [self] loop in
      try await openToWrite(backup.repository, on: loop).delete(backup, control: control)
    }
  }
}
