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

  /// `writeFault`: of the catalog, from the start on.
  init(
    catalog stored: InMemoryCatalog = InMemoryCatalog(), engine: ScriptedEngine = ScriptedEngine(),
    clock: ManualClock = ManualClock(), declarations: Declarations = Declarations(),
    writeFault: FaultyCatalog.Fault? = nil,
    _ adjust: (inout ServiceLimits) -> Void = { _ in }
  ) async throws {
    self.stored = stored
    self.engine = engine
    self.clock = clock
    catalog = FaultyCatalog(stored, write: writeFault)
    var limits = ServiceLimits()
    limits.tickInterval = .milliseconds(5)
    limits.storeInterval = .milliseconds(20)
    limits.commitRetryDelay = .milliseconds(1)
    adjust(&limits)
    var logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
    logger.logLevel = .critical
    service = BackupService(catalog: catalog, engine: engine, time: clock, logger: logger, limits: limits)
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

  /// Asks for a backup.
  func backUp(
    _ images: ResourceName..., into repository: ResourceName = "local", kind: RequestedBackupKind = .full
  ) async throws -> Job {
    try await service.createBackup(
      BackupDraft(images: images.map { .name($0) }, repository: .name(repository), kind: kind)
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

  /// Attaches the image.
  @discardableResult
  func attach(_ image: ResourceName, cache: CacheMode? = nil) async throws -> Image {
    let job = try await end(of: service.attachImage(.name(image), cache: cache).done())
    try #require(job.state == .succeeded, "\(job.error?.detail ?? "")")
    return try service.image(.name(image))
  }

  /// Exports an image, at one socket for all.
  @discardableResult
  func export(
    _ name: ResourceName, of image: ResourceName = "vm1", isReadOnly: Bool? = nil,
    _ conditions: ChangeConditions<ExportView> = ChangeConditions()
  ) async throws -> Export {
    try await service.createExport(.sample(name, of: image, isReadOnly: isReadOnly), conditions).done().export
  }

  /// Exports a backup.
  @discardableResult
  func export(_ name: ResourceName, of backup: Backup) async throws -> Export {
    try await service.createExport(
      ExportDraft(name: name, source: .backup(backup.id), listen: .unix(path: "/run/cobweb/nbd.sock"))
    ).done().export
  }

  /// What the engine serves and holds is what the catalog says, and what isn't served says why.
  func expectInLine(_ comment: Comment? = nil, sourceLocation: SourceLocation = #_sourceLocation) throws {
    let exports = try stored.read { try $0.exports(ExportFilter(), PageRequest()) }.items
    let images = try stored.read { try $0.images(PageRequest()) }.items
    let active = Set(exports.filter { $0.state == .active }.map(\.id))
    #expect(Set(engine.servedExports.keys) == active, comment, sourceLocation: sourceLocation)
    #expect(exports.allSatisfy { ($0.state == .active) == ($0.failure == nil) }, sourceLocation: sourceLocation)
    let attached = images.filter { $0.state == .attached }
    #expect(Set(engine.attachedImages.keys) == Set(attached.map(\.id)), comment, sourceLocation: sourceLocation)
    #expect(attached.allSatisfy { $0.attachment != nil }, comment, sourceLocation: sourceLocation)
  }

  /// Whether ``expectInLine(_:sourceLocation:)`` would find nothing.
  func isInLine() throws -> Bool {
    let exports = try stored.read { try $0.exports(ExportFilter(), PageRequest()) }.items
    let images = try stored.read { try $0.images(PageRequest()) }.items
    return Set(engine.servedExports.keys) == Set(exports.filter { $0.state == .active }.map(\.id))
      && Set(engine.attachedImages.keys) == Set(images.filter { $0.state == .attached }.map(\.id))
  }

  /// The job when it has ended.
  func end(of job: Job) async throws -> Job {
    let ended = try #require(try await service.job(job.id, wait: Self.timeout))
    try #require(ended.state.isEnded, "job \(job.id) is still \(ended.state)")
    return ended
  }

  /// The job as soon as it is as `holds` says.
  func job(_ id: JobID, _ holds: (Job) -> Bool) async throws -> Job {
    var job = try service.job(id)
    let deadline = ContinuousClock.now + Self.timeout
    while !holds(job) {
      try #require(ContinuousClock.now < deadline, "job \(id) stays \(job.state)")
      job = try await service.job(id, wait: .milliseconds(50), knownRevision: job.revision) ?? service.job(id)
    }
    return job
  }

  func events() throws -> [Event] { try stored.read { try $0.events(after: 0, job: nil, limit: .max) } }

  func eventKinds() throws -> [Event.Kind] { try events().map(\.kind) }

  static let timeout = Duration.seconds(20)
}

extension Answer {
  /// The value of a change that was made.
  func done() throws -> Value {
    guard case .done(let value) = self else { throw ExpectationFailure("expected a change, got \(self)") }
    return value
  }

  func repeated() throws -> KeptAnswer {
    guard case .repeated(let answer) = self else { throw ExpectationFailure("expected a repeat, got \(self)") }
    return answer
  }

  func planned() throws -> Plan {
    guard case .planned(let plan) = self else { throw ExpectationFailure("expected a plan, got \(self)") }
    return plan
  }
}

extension ExportDraft {
  static func sample(
    _ name: ResourceName = "disk0", of image: ResourceName = "vm1", isReadOnly: Bool? = nil,
    listen: ExportAddress = .unix(path: "/run/cobweb/nbd.sock"), tls: ExportTLS? = nil
  ) -> ExportDraft {
    ExportDraft(name: name, source: .image(.name(image)), isReadOnly: isReadOnly, listen: listen, tls: tls)
  }
}

extension Job {
  /// The ids of the backups that it makes.
  var backups: [BackupID] { links.backups ?? [] }
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
  let deadline = ContinuousClock.now + ServiceBench.timeout
  while try await !holds() {
    try #require(ContinuousClock.now < deadline, "\(what)", sourceLocation: sourceLocation)
    try await Task.sleep(for: .milliseconds(2))
  }
}
