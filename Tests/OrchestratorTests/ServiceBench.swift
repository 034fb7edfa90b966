import Foundation
import Logging
import Model
import ModelTesting
import Orchestrator
import Testing

/// A service with a catalog in memory and a scripted engine.
struct ServiceBench {
  let stored: InMemoryCatalog
  let catalog: FaultyCatalog
  let engine: ScriptedEngine
  let clock: ManualClock
  let service: BackupService

  init(
    catalog stored: InMemoryCatalog = InMemoryCatalog(), engine: ScriptedEngine = ScriptedEngine(),
    clock: ManualClock = ManualClock(), declarations: Declarations = Declarations(),
    _ adjust: (inout ServiceLimits) -> Void = { _ in }
  ) async throws {
    self.stored = stored
    self.engine = engine
    self.clock = clock
    catalog = FaultyCatalog(stored)
    var limits = ServiceLimits()
    limits.tickInterval = .milliseconds(5)
    limits.storeInterval = .milliseconds(20)
    limits.commitRetryDelay = .milliseconds(1)
    adjust(&limits)
    var logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
    logger.logLevel = .critical
    service = BackupService(catalog: catalog, engine: engine, clock: clock, logger: logger, limits: limits)
    try await service.start(declarations)
  }

  /// Registers an image, at /images/<name>.
  @discardableResult
  func image(_ name: ResourceName, path: String? = nil) async throws -> Image {
    try await service.registerImage(
      ImageDraft(name: name, source: .file(path: path ?? "/images/\(name)"), format: .raw)
    ).done()
  }

  /// Makes a repository, at /backup/<name>.
  @discardableResult
  func repository(_ name: ResourceName = "local") async throws -> Repository {
    try await service.createRepository(RepositoryDraft(name: name, path: "/backup/\(name)")).done()
  }

  /// Asks for a full backup.
  func backUp(_ images: ResourceName..., into repository: ResourceName = "local") async throws -> Job {
    try await service.createBackup(
      BackupDraft(images: images.map { .name($0) }, repository: .name(repository))
    ).done()
  }

  /// A complete backup of a new image "vm1" in a new repository "local".
  func completeBackup() async throws -> Backup {
    try await repository()
    try await image("vm1")
    let job = try await end(of: backUp("vm1"))
    #expect(job.state == .succeeded)
    return try service.backup(job.backups[0]).backup
  }

  /// The job when it has ended.
  func end(of job: Job) async throws -> Job {
    let ended = try #require(try await service.job(job.id, wait: Self.patience))
    try #require(ended.state.isEnded, "job \(job.id) is still \(ended.state)")
    return ended
  }

  /// The job as soon as it is as `holds` says.
  func job(_ id: JobID, _ holds: (Job) -> Bool) async throws -> Job {
    var job = try service.job(id)
    let deadline = ContinuousClock.now + Self.patience
    while !holds(job) {
      try #require(ContinuousClock.now < deadline, "job \(id) stays \(job.state)")
      job = try await service.job(id, wait: .milliseconds(50), knownRevision: job.revision) ?? service.job(id)
    }
    return job
  }

  func events() throws -> [Event] { try stored.read { try $0.events(after: 0, job: nil, limit: .max) } }

  func eventKinds() throws -> [Event.Kind] { try events().map(\.kind) }

  static let patience = Duration.seconds(20)
}

extension Answer {
  /// The value of a change that was made.
  func done() throws -> Value {
    guard case .done(let value) = self else { throw ExpectationFailure("expected a change, got \(self)") }
    return value
  }

  func repeated() throws -> StoredAnswer {
    guard case .repeated(let answer) = self else { throw ExpectationFailure("expected a repeat, got \(self)") }
    return answer
  }

  func planned() throws -> Plan {
    guard case .planned(let plan) = self else { throw ExpectationFailure("expected a plan, got \(self)") }
    return plan
  }
}

extension Job {
  /// The ids of the backups that it makes.
  var backups: [BackupID] {
    guard case .array(let items)? = links["backups"] else { return [] }
    return items.compactMap { if case .string(let text) = $0 { BackupID(text) } else { nil } }
  }
}

/// Expects `body` to be refused with `code`; returns the refusal.
@discardableResult
func expectRefusal<Value>(
  _ code: ProblemCode, sourceLocation: SourceLocation = #_sourceLocation, _ body: () async throws -> Value
) async -> DomainError? {
  do {
    let value = try await body()
    Issue.record("expected \(code), got \(value)", sourceLocation: sourceLocation)
    return nil
  } catch let error as DomainError {
    #expect(error.code == code, "\(error.detail)", sourceLocation: sourceLocation)
    return error
  } catch {
    Issue.record("expected \(code), got \(error)", sourceLocation: sourceLocation)
    return nil
  }
}

/// Waits until `holds`, or fails.
func eventually(
  _ what: String, sourceLocation: SourceLocation = #_sourceLocation, _ holds: () async throws -> Bool
) async throws {
  let deadline = ContinuousClock.now + ServiceBench.patience
  while try await !holds() {
    try #require(ContinuousClock.now < deadline, "\(what)", sourceLocation: sourceLocation)
    try await Task.sleep(for: .milliseconds(2))
  }
}
