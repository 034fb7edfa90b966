import Model
import ModelTesting
import Orchestrator
import Testing

/// Backup jobs of several images, up to their moment and after it.
@Suite struct GroupTests {
  private static func bench() async throws -> ServiceBench {
    let bench = try await ServiceBench()
    try await bench.repository()
    for name in ["a", "b", "c"] as [ResourceName] { try await bench.image(name) }
    return bench
  }

  private static func job(_ bench: ServiceBench, _ onFailure: FailurePolicy) async throws -> Job {
    try await bench.end(
      of: bench.service.createBackup(
        BackupDraft(
          images: [.name("a"), .name("b"), .name("c")], repository: .name("local"), onFailure: onFailure)
      ).done())
  }

  private static func outcomes(_ job: Job) throws -> [String: ProblemCode?] {
    guard case .backedUp(let result)? = job.result else { return [:] }
    return Dictionary(uniqueKeysWithValues: result.backups.map { ($0.imageName, $0.error?.code) })
  }

  @Test func imageThatCannotBeHeldFailsTheOthers() async throws {
    let bench = try await Self.bench()
    bench.engine.script { $0.begin = { if $0.image.name == "b" { throw DomainError(.imageLocked, "locked") } } }
    let job = try await Self.job(bench, .fail)
    #expect(job.state == .failed)
    #expect(try Self.outcomes(job) == ["a": .pointInTimeLost, "b": .imageLocked, "c": .pointInTimeLost])
    #expect(bench.engine.begunBackups.isEmpty)
    for backup in job.backups { #expect(try bench.service.backup(backup).backup.state == .failed) }
  }

  @Test func othersGoOnWhereTheRequestSaysSo() async throws {
    let bench = try await Self.bench()
    bench.engine.script { $0.begin = { if $0.image.name == "b" { throw DomainError(.imageLocked, "locked") } } }
    let job = try await Self.job(bench, .continue)
    #expect(job.state == .failed)
    #expect(try Self.outcomes(job) == ["a": nil, "b": .imageLocked, "c": nil])
    let states = try job.backups.map { try bench.service.backup($0).backup.state }
    #expect(states == [.complete, .failed, .complete])
  }

  /// After the moment each stands alone.
  @Test func failureAfterTheMomentIsOneImagesOwn() async throws {
    let bench = try await Self.bench()
    bench.engine.script { script in
      script.work = { order, _ in
        if case .backUp(let order, _) = order, order.image.name == "a" { throw DomainError(.ioError, "EIO") }
      }
    }
    let job = try await Self.job(bench, .fail)
    #expect(try Self.outcomes(job) == ["a": .ioError, "b": nil, "c": nil])
    #expect(bench.engine.begunBackups.isEmpty)
  }

  /// What has begun and doesn't get its turn is let go.
  @Test func cancelledJobLetsTheOthersGo() async throws {
    let bench = try await Self.bench()
    let gate = Gate()
    bench.engine.script { $0.hold(at: gate) { if case .backUp = $0 { true } else { false } } }
    let job = try await bench.backUp("a", "b", "c")
    try await eventually("the first is at work") { gate.arrivals == 1 }
    #expect(bench.engine.begunBackups.count == 2)
    _ = try await bench.service.cancelJob(job.id).done()
    let ended = try await bench.end(of: job)
    #expect(ended.state == .cancelled)
    #expect(bench.engine.begunBackups.isEmpty)
  }
}
