import Foundation
import Locks
import Model

/// A block engine without blocks: it answers by its script, remembers every order, and keeps what was backed up in
/// repositories of its own that can be scanned. Attached images and served exports are remembered until they end.
package final class ScriptedEngine: BlockEngine {
  /// The answers. Each may be replaced; what throws, fails the call.
  package struct Script: Sendable {
    package var suggestFormat: @Sendable (ImageSource) throws -> FormatSuggestion = { _ in
      FormatSuggestion(format: .raw, why: "it starts with no header that is known")
    }
    package var inspect: @Sendable (ImageLocation) throws -> ImageInspection = { location in
      ImageInspection(
        format: location.format, virtualSize: 1 << 20, storedSize: 1 << 16,
        bitmaps: [
          ImageInspection.Bitmap(
            name: "cobweb.second-tool.01KJH80MYZ9Q8P7N6M5K4J3H2G", granularity: 65536, enabled: true,
            inconsistent: false)
        ])
    }
    package var extents: @Sendable (ImageLocation, UInt64, UInt64?, Int) throws -> ExtentPage = {
      _, offset, length, _ in
      let end = offset + (length ?? (1 << 20) - offset)
      let item = ExtentPage.Item(offset: offset, length: end - offset, data: true, zero: false)
      return ExtentPage(items: [item], nextOffset: nil, generation: "1")
    }
    package var storedExtents: @Sendable (StoredExtentQuery) throws -> ExtentPage = { query in
      let item = ExtentPage.Item(offset: query.offset, length: query.length ?? 65536, data: true, zero: false)
      return ExtentPage(items: [item], nextOffset: nil, generation: "1")
    }
    package var differences: @Sendable (StoredExtentQuery) throws -> DifferencePage = { query in
      DifferencePage(items: [DifferencePage.Item(offset: query.offset, length: 65536)], nextOffset: nil)
    }
    package var resolveTarget: @Sendable (String) throws -> String = { $0 }
    package var identity: @Sendable (ImageSource) -> FileIdentity? = { _ in nil }
    package var attach: @Sendable (AttachOrder) throws -> AttachReceipt = { order in
      AttachReceipt(virtualSize: 1 << 20, cache: order.cache ?? .direct)
    }
    /// What throws here is told when the image is closed all the same.
    package var detach: @Sendable (ImageID) throws -> Void = { _ in }
    package var export: @Sendable (ExportOrder) throws -> Void = { _ in }
    package var setContexts: @Sendable (ExportOrder) throws -> Void = { _ in }
    /// What throws here leaves the export as it is.
    package var withdraw: @Sendable (ExportID, ExportRemoval) throws -> Void = { _, _ in }
    /// Of an export that is served; with clients, it isn't withdrawn safely.
    package var activity: @Sendable (ExportID) -> ExportActivity = { _ in ExportActivity() }
    package var fleece: @Sendable (FleecingOrder) throws -> Void = { _ in }
    /// What throws here is told when the views have ended all the same.
    package var finishFleecing: @Sendable (FleecingID) throws -> Void = { _ in }
    package var tracked: TrackedPoint? = TrackedPoint(granularity: 4096, marks: [1, 255])
    package var fleecingActivity: @Sendable (FleecingID) -> FleecingActivity = { _ in FleecingActivity() }
    /// The id that a folder's repository.json has; by default the one that it was opened with first.
    package var repositoryID: @Sendable (_ path: String) throws -> RepositoryID? = { _ in nil }
    package var access: @Sendable (RepositoryLocation) throws -> RepositoryAccess = { _ in .readWrite }
    package var recover: @Sendable (RepositoryLocation) throws -> RecoveryReport = { _ in
      RecoveryReport(removed: [], quarantined: [])
    }
    /// Findings of a scan, beside what was backed up.
    package var scanFindings: @Sendable (RepositoryLocation) throws -> [String] = { _ in [] }
    /// Backups whose manifest can't be read.
    package var unreadable: @Sendable (RepositoryLocation) -> Set<BackupID> = { _ in [] }
    /// What every job, and every attach, goes through before its answer: by default half the progress, a checkpoint, the other half.
    package var work: @Sendable (Order, any JobControl) async throws -> Void = { _, control in
      control.report(done: 1 << 19, total: 1 << 20)
      try await control.checkpoint()
      control.report(done: 1 << 20, total: 1 << 20)
    }
    /// What every call that is no job's goes through before its answer: a storage, or a peer, that may be silent.
    package var storage: @Sendable (Order) async throws -> Void = { _ in }
    /// What throws here can't be held at its group's moment.
    package var begin: @Sendable (BackupOrder) throws -> Void = { _ in }
    package var receipt: @Sendable (BackupOrder) throws -> BackupReceipt = { _ in
      BackupReceipt(
        pointInTime: ManualClock.epoch, finishedAt: ManualClock.epoch, virtualSize: 1 << 20, dirtyBytes: 1 << 16,
        storedSize: 1 << 15, merkleRoot: String(repeating: "5a", count: 32), consistency: .offline)
    }
    package var verify: @Sendable (VerifyOrder) throws -> VerifyReport = { _ in
      VerifyReport(findings: [], findingCount: 0, verifiedBytes: 1 << 20)
    }
    package var restore: @Sendable (RestoreOrder) throws -> RestoreReport = { _ in
      RestoreReport(virtualSize: 1 << 20, writtenBytes: 1 << 16)
    }
    /// What a restore reads.
    package var restorePath: @Sendable (StoredBackupLocation) throws -> RestorePath = {
      RestorePath(backups: [$0.backup])
    }
    package var restoreChoice: @Sendable (RestoreOrder) throws -> RestoreChoice = {
      RestoreChoice(mode: $0.mode == .auto ? .changed : $0.mode, why: "the script says so")
    }
    package var returnCheckpoint: @Sendable (CheckpointReturn) -> CheckpointReturn.Outcome = { _ in .unconcerned }
    package var removeTracking: @Sendable (ImageLocation, TrackerName?) -> TrackingRemoval = { _, _ in
      TrackingRemoval()
    }
    package var tracking: @Sendable (ImageLocation) throws -> ImageTracking = { _ in ImageTracking() }
    package var repairTracking: @Sendable (TrackingRepair) throws -> Void = { _ in }
    package var check: @Sendable (CheckOrder) throws -> CheckReport = { _ in
      CheckReport(findings: [], errorCount: 0, leakCount: 0, repairedLeakCount: 0, checkedBytes: 1 << 16)
    }
    /// The bitmaps of every image.
    package var bitmaps: @Sendable (BitmapImage) throws -> [BitmapRecord] = { _ in [Self.bitmap()] }
    package var changeBitmaps: @Sendable (BitmapOrder) throws -> [BitmapRecord?] = { order in
      order.actions.map { action in
        switch action.change {
        case .add(let granularity, let isRecording, let isPersistent):
          var record = Self.bitmap(action.bitmap, isRecording: isRecording)
          (record.granularity, record.isPersistent, record.dirtyBytes) = (granularity, isPersistent, 0)
          return record
        case .remove: return nil
        case .clear, .enable, .disable, .merge, .unite: return Self.bitmap(action.bitmap)
        }
      }
    }
    package var dirtyExtents: @Sendable (StoredExtentQuery) throws -> DirtyExtentPage = { query in
      let item = DirtyExtentPage.Item(offset: query.offset, length: query.length ?? 65536, dirty: true)
      return DirtyExtentPage(items: [item], nextOffset: nil, generation: "1")
    }
    package var bits: @Sendable (BitmapName) throws -> BitmapBits = { _ in
      BitmapBits(bytes: [0, 0xFF, 0x0D, 0x0A], generation: "1")
    }

    package init() {}

    /// Lets every job that is meant wait at `gate`, honouring pause and cancel, before it goes on.
    package mutating func hold(at gate: Gate, where isMeant: @Sendable @escaping (Order) -> Bool = { _ in true }) {
      let work = work
      self.work = { order, control in
        if isMeant(order) { try await gate.pass(control) }
        try await work(order, control)
      }
    }

    /// Lets every call that is no job's and that is meant wait at `gate`.
    package mutating func silence(at gate: Gate, where isMeant: @Sendable @escaping (Order) -> Bool) {
      storage = { if isMeant($0) { try await gate.pass() } }
    }
  }

  struct State {
    var script: Script
    var orders: [Order] = []
    var repositories: [String: ScriptedRepository] = [:]
    var attachedImages: [ImageID: AttachOrder] = [:]
    var servedExports: [ExportID: ExportOrder] = [:]
    var begunBackups: [BackupID: BackupOrder] = [:]
    var servedFleecings: [FleecingID: FleecingOrder] = [:]
    var lossHandler: (@Sendable (FleecingLoss) -> Void)?
    var failureHandler: (@Sendable (ImageFailure) -> Void)?
    var damageHandler: (@Sendable (BackupDamage) -> Void)?
  }

  package let ioBackend: String
  let state: Lock<State>

  package init(ioBackend: String = "epoll", script: Script = Script()) {
    self.ioBackend = ioBackend
    state = Lock(State(script: script))
  }

  /// Changes the script of the calls to come.
  package func script(_ change: (inout Script) -> Void) {
    var script = state.withLock { $0.script }
    change(&script)
    state.withLock { [script] in $0.script = script }
  }

  package var currentScript: Script { state.withLock { $0.script } }

  package var orders: [Order] { state.withLock { $0.orders } }

  /// The images that are attached now, each with what it was attached by.
  package var attachedImages: [ImageID: AttachOrder] { state.withLock { $0.attachedImages } }
  /// Backups that were begun, and neither stored nor abandoned.
  package var begunBackups: Set<BackupID> { Set(state.withLock { $0.begunBackups }.keys) }
  /// The exports that clients could use now.
  package var servedExports: [ExportID: ExportOrder] { state.withLock { $0.servedExports } }

  package func attach(_ order: AttachOrder, control: any JobControl) async throws -> AttachReceipt {
    let script = note(.attach(order, job: control.job))
    try await script.work(.attach(order, job: control.job), control)
    let receipt = try script.attach(order)
    try state.withLock { state in
      guard state.attachedImages[order.image] == nil else {
        throw DomainError(.imageInUse, "image \(order.image) is attached already")
      }
      state.attachedImages[order.image] = order
    }
    return receipt
  }

  package func onImageFailure(_ handler: @escaping @Sendable (ImageFailure) -> Void) {
    state.withLock { $0.failureHandler = handler }
  }

  /// Has an attached image fail, as its storage may at any time.
  package func fail(_ failure: ImageFailure) { state.withLock { $0.failureHandler }?(failure) }

  package func onBackupDamage(_ handler: @escaping @Sendable (BackupDamage) -> Void) {
    state.withLock { $0.damageHandler = handler }
  }

  /// Has a reader of an export meet damage.
  package func meet(_ damage: BackupDamage) { state.withLock { $0.damageHandler }?(damage) }

  package func detach(_ image: ImageID) async throws {
    let script = note(.detach(image))
    let wasAttached = try state.withLock { state in
      guard !state.servedExports.values.contains(where: { $0.source == .attachedImage(image) }) else {
        throw DomainError(.imageInUse, "image \(image) has exports")
      }
      return state.attachedImages.removeValue(forKey: image) != nil
    }
    if wasAttached { try script.detach(image) }
  }

  package func export(_ order: ExportOrder) async throws {
    try await arrive(.export(order)).export(order)
    try state.withLock { state in
      if case .attachedImage(let image) = order.source, state.attachedImages[image] == nil {
        throw DomainError(.imageNotAttached, "image \(image) isn't attached")
      }
      let neighbours = state.servedExports.values.filter { $0.listen == order.listen }
      guard !neighbours.contains(where: { $0.name == order.name }) else {
        throw DomainError(.nameTaken, "\(order.listen.text) has an export '\(order.name)' already")
      }
      guard neighbours.allSatisfy({ $0.tls == order.tls }) else {
        throw DomainError(.addressUnavailable, "\(order.listen.text) is open with other conditions of TLS")
      }
      state.servedExports[order.export] = order
    }
  }

  package func setContexts(_ order: ExportOrder) async throws {
    try await arrive(.setContexts(order)).setContexts(order)
    state.withLock { if $0.servedExports[order.export] != nil { $0.servedExports[order.export] = order } }
  }

  package func withdraw(_ export: ExportID, _ removal: ExportRemoval) async throws {
    let script = note(.withdraw(export, removal))
    guard servedExports[export] != nil else { return }
    let clients = script.activity(export).clients
    guard removal == .hard || clients == 0 else {
      throw DomainError(.exportInUse, "export \(export) has clients: \(clients)")
    }
    try script.withdraw(export, removal)
    state.withLock { $0.servedExports[export] = nil }
  }

  package func activity(of export: ExportID) -> ExportActivity? {
    let (script, isServed) = state.withLock { ($0.script, $0.servedExports[export] != nil) }
    return isServed ? script.activity(export) : nil
  }

  package func openRepository(at path: String, id: RepositoryID) async throws -> RepositoryID {
    let scripted = try await arrive(.openRepository(path: path, id: id)).repositoryID(path)
    return state.withLock { state in
      let repository = state.repositories[path] ?? ScriptedRepository(id: scripted ?? id)
      state.repositories[path] = repository
      return repository.id
    }
  }

  package func access(to repository: RepositoryLocation) async throws -> RepositoryAccess {
    try await arrive(.access(repository)).access(repository)
  }

  package func scan(_ repository: RepositoryLocation) async throws -> RepositoryScan {
    let script = try await arrive(.scan(repository))
    let findings = try script.scanFindings(repository)
    return try state.withLock { state in
      guard let stored = state.repositories[repository.path] else {
        throw DomainError(.repositoryUnavailable, "there is no repository at \(repository.path)")
      }
      guard stored.id == repository.id else {
        throw DomainError(.repositoryMismatch, "\(repository.path) is repository \(stored.id), not \(repository.id)")
      }
      return stored.scan(unreadable: script.unreadable(repository), findings: findings)
    }
  }

  package func recover(_ repository: RepositoryLocation, liveJobs: Set<JobID>) async throws -> RecoveryReport {
    try await arrive(.recover(repository, liveJobs: liveJobs)).recover(repository)
  }

  package func removeRestoreLeftovers(liveJobs: Set<JobID>) async throws -> [String] {
    _ = try await arrive(.removeRestoreLeftovers(liveJobs: liveJobs))
    return []
  }

  package func record(_ image: ImageRecord, in repository: RepositoryLocation) async throws {
    _ = try await arrive(.record(image, repository))
    state.withLock { $0.repositories[repository.path]?.record(image) }
  }

  package func begin(_ group: GroupOrder, control: any JobControl) async throws -> [BackupBeginning] {
    let script = currentScript
    var failures: [BackupID: ProblemDetails] = [:]
    for order in group.backups {
      do { try script.begin(order) } catch let error as DomainError { failures[order.backup] = ProblemDetails(error) }
    }
    let isLost = !failures.isEmpty && !group.continuesAfterFailure
    return group.backups.map { order in
      if let failure = failures[order.backup] { return .failed(failure) }
      if isLost { return .failed(ProblemDetails(DomainError(.pointInTimeLost, "another image couldn't be held"))) }
      state.withLock { $0.begunBackups[order.backup] = order }
      return .begun(
        BackupPlan(
          kind: order.kind == .copy ? .copy : .full, chain: order.newChain, sequence: 0, parent: nil,
          reason: order.kind.words + (order.mixture.map { "; it is of a mixture: \($0)" } ?? ""),
          pointInTime: ManualClock.epoch))
    }
  }

  package func abandon(_ backups: [BackupID]) async {
    state.withLock { state in for backup in backups { state.begunBackups[backup] = nil } }
  }

  package func store(_ backup: BackupID, control: any JobControl) async throws -> BackupReceipt {
    guard let order = state.withLock({ $0.begunBackups.removeValue(forKey: backup) }) else {
      throw DomainError(.internalError, "backup \(backup) wasn't begun")
    }
    let script = note(.backUp(order, job: control.job))
    try await script.work(.backUp(order, job: control.job), control)
    let receipt = try script.receipt(order)
    state.withLock { state in
      var repository = state.repositories[order.repository.path] ?? ScriptedRepository(id: order.repository.id)
      repository.store(order, receipt)
      state.repositories[order.repository.path] = repository
    }
    return receipt
  }

  package func verify(_ order: VerifyOrder, control: any JobControl) async throws -> VerifyReport {
    let script = note(.verify(order, job: control.job))
    try await script.work(.verify(order, job: control.job), control)
    return try script.verify(order)
  }

  package func restore(_ order: RestoreOrder, control: any JobControl) async throws -> RestoreReport {
    let script = note(.restore(order, job: control.job))
    if order.target.isOverwritten { try await control.willOverwrite() }
    try await script.work(.restore(order, job: control.job), control)
    return try script.restore(order)
  }

  package func restoreChoice(_ order: RestoreOrder) async throws -> RestoreChoice {
    let script = note(.restoreChoice(order))
    try await script.storage(.restoreChoice(order))
    return try script.restoreChoice(order)
  }

  package func returnCheckpoint(_ order: CheckpointReturn) async -> CheckpointReturn.Outcome {
    let script = note(.returnCheckpoint(order))
    try? await script.storage(.returnCheckpoint(order))
    return script.returnCheckpoint(order)
  }

  package func restorePath(to backup: StoredBackupLocation) async throws -> RestorePath {
    let script = note(.restorePath(backup))
    try await script.storage(.restorePath(backup))
    return try script.restorePath(backup)
  }

  package func delete(_ backup: StoredBackupLocation, control: any JobControl) async throws {
    let script = note(.delete(backup, job: control.job))
    try await script.work(.delete(backup, job: control.job), control)
    state.withLock { $0.repositories[backup.repository.path]?.delete(backup.backup) }
  }

  package func check(_ order: CheckOrder, control: any JobControl) async throws -> CheckReport {
    let script = note(.check(order, job: control.job))
    try await script.work(.check(order, job: control.job), control)
    return try script.check(order)
  }

  package func shutDown() async {
    _ = note(.shutDown)
    state.withLock { ($0.attachedImages, $0.servedExports, $0.servedFleecings) = ([:], [:], [:]) }
  }

  /// Remembers the order, and waits for the storage; returns the script that it runs by.
  func arrive(_ order: Order) async throws -> Script {
    let script = note(order)
    try await script.storage(order)
    return script
  }

  /// Remembers the order; returns the script that it runs by.
  func note(_ order: Order) -> Script {
    state.withLock { state in
      state.orders.append(order)
      return state.script
    }
  }
}

extension RestoreOrder.Target {
  fileprivate var isOverwritten: Bool { if case .newFile = self { false } else { true } }
}
