import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@Suite struct StartUpTests {
  /// A catalog as a kill would leave it: a backup job in `state`, its backup `running`.
  private func killed(
    in state: JobState, _ stored: InMemoryCatalog, _ engine: ScriptedEngine, isHeld: Bool
  ) async throws -> (JobID, BackupID) {
    let bench = try await ServiceBench(catalog: stored, engine: engine)
    let backup = try await bench.completeBackup()
    let job = try #require(backup.job)
    try await stored.write { catalog in
      var row = try #require(try catalog.job(job))
      (row.state, row.finishedAt, row.result) = (state, nil, nil)
      try catalog.update(row)
      var backup = try #require(try catalog.backup(backup.id))
      (backup.state, backup.finishedAt, backup.merkleRoot, backup.storedSize) = (.running, nil, nil, 0)
      try catalog.update(backup)
    }
    if !isHeld {
      let gone = StoredBackupLocation(
        repository: try bench.service.repository(.name("local")).location, image: backup.image, chain: backup.chain,
        sequence: 0, backup: backup.id)
      try await engine.delete(gone, control: RecordingJobControl())
    }
    return (job, backup.id)
  }

  @Test(arguments: [JobState.queued, .running, .paused, .cancelling], [true, false])
  func jobThatWasNotEndedIsInterruptedAndTheManifestDecides(state: JobState, isHeld: Bool) async throws {
    let (stored, engine) = (InMemoryCatalog(), ScriptedEngine())
    let (job, backup) = try await killed(in: state, stored, engine, isHeld: isHeld)
    let bench = try await ServiceBench(catalog: stored, engine: engine)
    let row = try bench.service.job(job)
    #expect(row.state == .interrupted && row.error?.code == .interrupted && row.finishedAt != nil)
    let view = try bench.service.backup(backup)
    #expect(view.backup.state == (isHeld ? .complete : .failed))
    #expect((view.backup.merkleRoot != nil) == isHeld)
    #expect((view.backup.failure == nil) == isHeld)
    let told = try bench.events().suffix(2)
    #expect(told.map(\.kind) == [.jobChanged, .backupChanged])
    #expect(told.first?.payload["state"] == "interrupted")
    // Nothing is left to do the next time.
    let count = try bench.events().count
    let again = try await ServiceBench(catalog: stored, engine: engine)
    #expect(try again.events().count == count)
  }

  @Test func endedJobsStayAsTheyAre() async throws {
    let (stored, engine) = (InMemoryCatalog(), ScriptedEngine())
    let bench = try await ServiceBench(catalog: stored, engine: engine)
    let backup = try await bench.completeBackup()
    let before = try bench.service.job(#require(backup.job))
    let again = try await ServiceBench(catalog: stored, engine: engine)
    #expect(try again.service.job(before.id) == before)
    #expect(try again.service.backup(backup.id).backup == backup)
  }

  @Test func interruptedDeletionIsFinishedIfTheFilesAreGone() async throws {
    for isHeld in [true, false] {
      let (stored, engine) = (InMemoryCatalog(), ScriptedEngine())
      let (_, backup) = try await killed(in: .running, stored, engine, isHeld: isHeld)
      try await stored.write { catalog in
        var row = try #require(try catalog.backup(backup))
        row.state = .complete
        try catalog.update(row)
        try catalog.insert(Job.sample(.deleteBackup(backup: backup), state: .running))
      }
      let bench = try await ServiceBench(catalog: stored, engine: engine)
      #expect(((try? bench.service.backup(backup)) != nil) == isHeld)
    }
  }

  @Test func repositoriesAreCleanedUpWithNoLiveJob() async throws {
    let (stored, engine) = (InMemoryCatalog(), ScriptedEngine())
    let bench = try await ServiceBench(catalog: stored, engine: engine)
    let repository = try await bench.repository()
    _ = try await ServiceBench(catalog: stored, engine: engine)
    #expect(engine.orders.last == .recover(repository.location, liveJobs: []))
  }

  @Test func unreachableRepositoryDoesNotFailTheStart() async throws {
    let (stored, engine) = (InMemoryCatalog(), ScriptedEngine())
    let (_, backup) = try await killed(in: .running, stored, engine, isHeld: true)
    engine.script { $0.recover = { _ in throw DomainError(.repositoryUnavailable, "not mounted") } }
    let bench = try await ServiceBench(catalog: stored, engine: engine)
    #expect(try bench.service.repository(.name("local")).state == .unavailable)
    #expect(try bench.service.backup(backup).backup.state == .failed)
    // Once it is back, a rescan finds out.
    engine.script { $0.recover = { _ in RecoveryReport(removed: [], quarantined: []) } }
    let job = try await bench.end(of: bench.service.rescanRepository(.name("local")).done())
    #expect(job.state == .succeeded && job.result?["backupsChanged"] == 1)
    #expect(try bench.service.repository(.name("local")).state == .ready)
    #expect(try bench.service.backup(backup).backup.state == .complete)
  }

  @Test func imagesThatCannotBeOpenedBecomeUnavailableAndBack() async throws {
    let (stored, engine) = (InMemoryCatalog(), ScriptedEngine())
    let first = try await ServiceBench(catalog: stored, engine: engine)
    for name in ["a", "b", "c"] as [ResourceName] { try await first.image(name) }
    engine.script { script in
      script.inspect = { location in
        if location.source.place == "/images/b" { throw DomainError(.sourceNotFound, "gone") }
        if location.source.place == "/images/c" { throw DomainError(.imageLocked, "QEMU has it") }
        return ImageInspection(format: location.format, virtualSize: 1 << 20, storedSize: 0)
      }
    }
    let second = try await ServiceBench(catalog: stored, engine: engine)
    let states = try (["a", "b", "c"] as [ResourceName]).map { try second.service.image(.name($0)).state }
    #expect(states == [.detached, .unavailable, .detached])
    engine.script { script in
      script.inspect = { ImageInspection(format: $0.format, virtualSize: 1 << 20, storedSize: 0) }
    }
    let third = try await ServiceBench(catalog: stored, engine: engine)
    #expect(try third.service.image(.name("b")).state == .detached)
  }
}
