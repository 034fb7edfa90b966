import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

/// What a backup's row says while it is deleted, and after a deletion that was cut.
@Suite struct DeletionTests {
  private static let unreachable = DomainError(.repositoryUnavailable, "not mounted")

  /// A backup whose deletion began; nothing is known of how it went on.
  private func begun(
    _ stored: InMemoryCatalog, _ engine: ScriptedEngine, from state: Backup.State = .complete, isHeld: Bool
  ) async throws -> Backup {
    let bench = try await ServiceBench(catalog: stored, engine: engine)
    let backup = try await bench.completeBackup()
    try await stored.write { catalog in
      var row = try #require(try catalog.backup(backup.id))
      row.beforeDeletion = Backup.BeforeDeletion(state: state, failure: state == .corrupt ? "bit rot" : nil)
      (row.state, row.failure) = (.failed, "its deletion has begun")
      try catalog.update(row)
    }
    if !isHeld {
      let location = try bench.service.repository(.name("local")).location
      let place = StoredBackupLocation(
        repository: location, image: backup.image, chain: backup.chain, sequence: 0, backup: backup.id)
      try await engine.delete(place, control: RecordingJobControl())
    }
    return backup
  }

  private func rescan(_ bench: ServiceBench) async throws {
    #expect(try await bench.end(of: bench.service.rescanRepository(.name("local")).done()).state == .succeeded)
  }

  @Test func rowIsFailedBeforeTheFirstFileIsTouched() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) }
    let job = try await bench.service.deleteBackup(backup.id).done()
    try await gate.reached()
    let row = try bench.service.backup(backup.id).backup
    #expect(row.state == .failed && row.failure == "its deletion has begun")
    await expectRefusal(.backupNotComplete) { try await bench.export("look", of: backup) }
    gate.open()
    #expect(try await bench.end(of: job).state == .succeeded)
    await expectRefusal(.notFound) { try bench.service.backup(backup.id) }
  }

  @Test func cancelledDeletionThatTouchedNothingLeavesACompleteBackup() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    bench.engine.script { $0.hold(at: Gate()) }
    let job = try await bench.service.deleteBackup(backup.id).done()
    try await eventually("it has begun") { try bench.service.backup(backup.id).backup.state == .failed }
    _ = try await bench.service.cancelJob(job.id)
    #expect(try await bench.end(of: job).state == .cancelled)
    let row = try bench.service.backup(backup.id).backup
    #expect(row.state == .complete && row.failure == nil && row.beforeDeletion == nil)
  }

  /// However often the server is killed, or its repository is away, until somebody can look.
  @Test(arguments: [true, false], [true, false])
  func repositorySettlesWhatAKillLeft(isHeld: Bool, byRescan: Bool) async throws {
    let (stored, engine) = (InMemoryCatalog(), ScriptedEngine())
    let backup = try await begun(stored, engine, isHeld: isHeld)
    engine.script { $0.recover = { _ in throw Self.unreachable } }
    for _ in 0..<2 {
      let away = try await ServiceBench(catalog: stored, engine: engine)
      #expect(try away.service.backup(backup.id).backup.state == .failed)
    }
    let bench: ServiceBench
    if byRescan {
      bench = try await ServiceBench(catalog: stored, engine: engine)
      try await rescan(bench)
    } else {
      engine.script { $0.recover = { _ in RecoveryReport(removed: [], quarantined: []) } }
      bench = try await ServiceBench(catalog: stored, engine: engine)
    }
    if isHeld {
      let row = try bench.service.backup(backup.id).backup
      #expect(row.state == .complete && row.failure == nil && row.beforeDeletion == nil)
    } else {
      await expectRefusal(.notFound) { try bench.service.backup(backup.id) }
      await expectRefusal(.notFound) { try bench.service.chain(backup.chain) }
    }
  }

  @Test func damageThatWasFoundBeforeStaysFound() async throws {
    let (stored, engine) = (InMemoryCatalog(), ScriptedEngine())
    let backup = try await begun(stored, engine, from: .corrupt, isHeld: true)
    let row = try await ServiceBench(catalog: stored, engine: engine).service.backup(backup.id).backup
    #expect(row.state == .corrupt && row.failure == "bit rot")
  }

  @Test(arguments: [true, false])
  func repositoryThatCannotBeReadLeavesItFailed(byUnreadableManifest: Bool) async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    bench.engine.script { script in
      script.work = { _, _ in throw DomainError(.ioError, "EIO") }
      if byUnreadableManifest {
        script.unreadable = { _ in [backup.id] }
      } else {
        script.scanFindings = { _ in throw Self.unreachable }
      }
    }
    #expect(try await bench.end(of: bench.service.deleteBackup(backup.id).done()).error?.code == .ioError)
    #expect(try bench.service.backup(backup.id).backup.state == .failed)
    bench.engine.script { script in
      script.work = { _, _ in }
      script.scanFindings = { _ in [] }
    }
    if byUnreadableManifest {
      try await rescan(bench)
      #expect(try bench.service.backup(backup.id).backup.state == .failed)
      bench.engine.script { $0.unreadable = { _ in [] } }
    }
    try await rescan(bench)
    #expect(try bench.service.backup(backup.id).backup.state == .complete)
  }

  @Test(arguments: FaultyCatalog.Effect.allCases)
  func catalogThatFailsWhileADeletionBeginsIsTriedAgain(effect: FaultyCatalog.Effect) async throws {
    for call in 1...4 {
      let bench = try await ServiceBench { $0.storeInterval = .seconds(60) }
      let backup = try await bench.completeBackup()
      bench.catalog.writeFault = FaultyCatalog.Fault(atCall: call + 1, effect: effect)
      let job = try await bench.end(of: bench.service.deleteBackup(backup.id).done())
      #expect(job.state == .succeeded, "call \(call): \(job.error?.detail ?? "")")
      await expectRefusal(.notFound) { try bench.service.backup(backup.id) }
    }
  }
}
