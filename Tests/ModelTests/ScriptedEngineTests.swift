import Foundation
import Model
import ModelTesting
import Testing

struct ScriptedEngineTests {
  private let repository = RepositoryLocation(id: RepositoryID(), path: "/backup/local")

  private func order(of image: Image) -> BackupOrder {
    BackupOrder(
      backup: BackupID(), newChain: ChainID(), group: ULID(), kind: .full, image: ImageRecord(image),
      repository: repository, compression: .zstd)
  }

  @Test func aJobWaitsAtItsGateAndGoesOnWhenItOpens() async throws {
    let gate = Gate()
    let engine = ScriptedEngine()
    engine.script { $0.hold(at: gate) }
    let control = RecordingJobControl()
    let order = order(of: .sample())
    let job = Task { try await engine.backUp(order, control: control) }
    try await gate.reached()
    #expect(control.reports.isEmpty)
    gate.open()
    #expect(try await job.value.virtualSize == 1 << 20)
    #expect(control.reports.last == .init(done: 1 << 20, total: 1 << 20))
    #expect(engine.orders == [.backUp(order, job: control.job)])
  }

  @Test func aJobAtItsGateCanBeCancelled() async throws {
    let gate = Gate()
    let engine = ScriptedEngine()
    engine.script { $0.hold(at: gate) }
    let control = RecordingJobControl()
    let order = order(of: .sample())
    let job = Task { try await engine.backUp(order, control: control) }
    try await gate.reached()
    control.cancel()
    await #expect(throws: CancellationError.self) { try await job.value }
    _ = try await engine.openRepository(at: repository.path, id: repository.id)
    #expect(try await engine.scan(repository).backups.isEmpty, "a cancelled backup isn't stored")
  }

  @Test func aPausedJobStandsStillUntilItIsResumed() async throws {
    let control = RecordingJobControl()
    control.pause()
    let engine = ScriptedEngine()
    let order = order(of: .sample())
    let job = Task { try await engine.backUp(order, control: control) }
    while control.checkpoints == 0 { await Task.yield() }
    try await Task.sleep(for: .milliseconds(10))
    #expect(control.reports.count == 1)
    control.resume()
    _ = try await job.value
    #expect(control.reports.count == 2)
  }

  @Test func whatWasBackedUpCanBeScannedUntilItIsDeleted() async throws {
    let engine = ScriptedEngine()
    let control = RecordingJobControl()
    let image = Image.sample()
    let order = order(of: image)
    #expect(try await engine.openRepository(at: repository.path, id: repository.id) == repository.id)
    #expect(try await engine.openRepository(at: repository.path, id: RepositoryID()) == repository.id)
    _ = try await engine.backUp(order, control: control)
    var renamed = ImageRecord(image)
    renamed.name = "renamed"
    try await engine.record(renamed, in: repository)
    let scan = try await engine.scan(repository)
    #expect(scan.images == [renamed])
    #expect(scan.chains.map(\.imageName) == ["renamed"])
    #expect(scan.backups.map(\.id) == [order.backup])
    let location = StoredBackupLocation(
      repository: repository, image: image.id, chain: order.newChain, sequence: 0, backup: order.backup)
    try await engine.delete(location, control: control)
    #expect(try await engine.scan(repository).backups.isEmpty)
    await #expect(throws: DomainError.self) {
      try await engine.scan(RepositoryLocation(id: RepositoryID(), path: repository.path))
    }
  }
}
