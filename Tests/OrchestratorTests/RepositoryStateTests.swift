import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

/// A repository's state follows its storage in both directions, by what jobs, requests and starts find.
@Suite struct RepositoryStateTests {
  private func repository(_ bench: ServiceBench) throws -> Repository {
    try bench.service.repository(.name("local"))
  }

  private func refusal(_ body: () async throws -> Void) async -> ProblemCode? {
    do { try await body() } catch { return (error as? DomainError)?.code }
    return nil
  }

  @Test func storageThatGoesIsNotedByTheJobThatMissesIt() async throws {
    let bench = try await ServiceBench()
    let backup = try await bench.completeBackup()
    bench.engine.script { $0.verify = { _ in throw DomainError(.repositoryUnavailable, "not mounted") } }
    let job = try await bench.end(of: bench.service.verifyBackup(backup.id, level: .metadata).done())
    #expect(job.state == .failed)
    #expect(try repository(bench).state == .unavailable)
    // A job that reaches it again heals it.
    bench.engine.script { $0.verify = { _ in VerifyReport(findings: [], findingCount: 0, verifiedBytes: 0) } }
    _ = try await bench.end(of: bench.service.verifyBackup(backup.id, level: .metadata).done())
    #expect(try repository(bench).state == .ready)
    // What fails for other reasons tells nothing of it.
    bench.engine.script { $0.verify = { _ in throw DomainError(.ioError, "bad sector") } }
    _ = try await bench.end(of: bench.service.verifyBackup(backup.id, level: .metadata).done())
    #expect(try repository(bench).state == .ready)
  }

  @Test func storageThatComesIsNotedByTheNextRequest() async throws {
    let bench = try await ServiceBench()
    _ = try await bench.completeBackup()
    bench.engine.script { script in
      script.receipt = { _ in throw DomainError(.repositoryUnavailable, "not mounted") }
      script.access = { _ in throw DomainError(.repositoryUnavailable, "not mounted") }
    }
    #expect(try await bench.end(of: bench.backUp("vm1")).state == .failed)
    #expect(try repository(bench).state == .unavailable)
    #expect(await refusal { _ = try await bench.backUp("vm1") } == .repositoryUnavailable)
    let normal = ScriptedEngine.Script()
    bench.engine.script { ($0.receipt, $0.access) = (normal.receipt, normal.access) }
    #expect(try await bench.end(of: bench.backUp("vm1")).state == .succeeded)
    #expect(try repository(bench).state == .ready)
  }

  @Test func readOnlyStorageServesReadersOnly() async throws {
    let engine = ScriptedEngine()
    let bench = try await ServiceBench(engine: engine)
    let backup = try await bench.completeBackup()
    engine.script { script in
      script.recover = { _ in RecoveryReport(removed: [], quarantined: [], access: .readOnly) }
      script.access = { _ in .readOnly }
    }
    let rescan = try await bench.end(of: bench.service.rescanRepository(.name("local")).done())
    #expect(rescan.state == .succeeded)
    #expect(try repository(bench).isReadOnly && repository(bench).state == .ready)
    #expect(await refusal { _ = try await bench.backUp("vm1") } == .repositoryReadOnly)
    #expect(await refusal { _ = try await bench.service.deleteBackup(backup.id) } == .repositoryReadOnly)
    for job in [
      try await bench.service.verifyBackup(backup.id, level: .checksum).done(),
      try await bench.service.restoreBackup(backup.id, to: .image(.name("vm1"), confirm: "vm1")).done(),
    ] { #expect(try await bench.end(of: job).state == .succeeded) }
    #expect(try repository(bench).isReadOnly)

    // Mounted to be written again: the next request finds it.
    engine.script { $0.access = { _ in .readWrite } }
    #expect(try await bench.end(of: bench.service.deleteBackup(backup.id).done()).state == .succeeded)
    #expect(try !repository(bench).isReadOnly)
  }

  @Test func jobThatMeetsReadOnlyStorageNotesIt() async throws {
    let bench = try await ServiceBench()
    _ = try await bench.completeBackup()
    bench.engine.script { $0.receipt = { _ in throw DomainError(.repositoryReadOnly, "takes no writes") } }
    let job = try await bench.end(of: bench.backUp("vm1"))
    #expect(job.state == .failed && job.error?.code == .repositoryReadOnly)
    #expect(try repository(bench).isReadOnly && repository(bench).state == .ready)
  }
}
