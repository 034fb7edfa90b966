import Foundation
import Locks
import Model
import ModelTesting
import Orchestrator
import Testing

/// Starts while storages and peers say nothing: guests and the API don't wait for them.
@Suite struct SilentStorageTests {
  private typealias Order = ScriptedEngine.Order

  private func isInspect(_ order: Order, of name: String? = nil) -> Bool {
    guard case .inspect(let location) = order else { return false }
    return name == nil || location.source.place == "/images/\(name ?? "")"
  }

  /// A restart over `stored` with calls that wait at `gate`; the start itself waits for a moment only.
  private func restart(
    _ stored: InMemoryCatalog, _ engine: ScriptedEngine = ScriptedEngine(), at gate: Gate,
    declarations: Declarations = Declarations(), where isMeant: @Sendable @escaping (Order) -> Bool
  ) async throws -> ServiceBench {
    engine.script { $0.silence(at: gate, where: isMeant) }
    return try await ServiceBench(catalog: stored, engine: engine, declarations: declarations) { limits in
      limits.lookTimeout = .milliseconds(10)
      limits.moveTimeout = .milliseconds(10)
      limits.servingTimeout = .milliseconds(10)
      limits.declarationTimeout = .milliseconds(10)
    }
  }

  @Test func silentImagesDelayNeitherTheStartNorAGuest() async throws {
    let first = try await ServiceBench()
    try await first.repository()
    for number in 0..<20 { try await first.image(ResourceName("n\(number)") ?? "n") }
    try await first.image("gone")
    try await first.image("guest")
    try await first.attach("guest")
    try await first.export("g", of: "guest", isReadOnly: false)
    try await first.stored.write { catalog in
      var gone = try #require(try catalog.image(named: "gone"))
      gone.state = .unavailable
      try catalog.update(gone)
    }
    await first.service.stop(grace: .seconds(1))

    let gate = Gate()
    let bench = try await restart(first.stored, at: gate) { self.isInspect($0) }
    #expect(bench.service.isProbing)
    #expect(bench.engine.servedExports.values.map(\.name) == ["g"])
    try bench.expectInLine()
    // Eight at a time, and until then each shows the state that it had.
    try await gate.reached(by: 8)
    #expect(gate.arrivals == 8)
    #expect(try bench.service.image(.name("n3")).state == .detached)
    #expect(try bench.service.image(.name("gone")).state == .unavailable)
    let job = try await bench.service.checkImage(.name("n3"), repairsLeaks: false).done()
    let waiting = try await bench.job(job.id) { $0.waitingFor != nil }
    #expect(waiting.state == .queued && waiting.waitingFor == "the first look at image 'n3' since the start")
    // Work on what needs no look goes on.
    _ = try await bench.service.deleteExport(.name("g"), .safe).done()
    try await bench.export("g", of: "guest", isReadOnly: false)
    gate.open()
    #expect(try await bench.end(of: job).state == .succeeded)
    try await eventually("all has been looked at") { !bench.service.isProbing }
    #expect(try bench.service.image(.name("gone")).state == .detached)
    #expect(gate.arrivals == 21)
  }

  @Test func hungLooksLetOthersHaveTheirTurn() async throws {
    let first = try await ServiceBench()
    for number in 0..<10 { try await first.image(ResourceName("hung\(number)") ?? "n") }
    try await first.image("vm1")
    let (gate, engine) = (Gate(), ScriptedEngine())
    engine.script { script in
      script.silence(at: gate) { order in
        guard case .inspect(let location) = order else { return false }
        return location.source.place.contains("hung")
      }
    }
    let bench = try await ServiceBench(catalog: first.stored, engine: engine) { limits in
      limits.lookTimeout = .milliseconds(1)
      limits.moveTimeout = .milliseconds(1)
      limits.concurrentLooks = 2
      limits.lookTurn = .milliseconds(20)
    }
    let job = try await bench.service.checkImage(.name("vm1"), repairsLeaks: false).done()
    #expect(try await bench.end(of: job).state == .succeeded)
    #expect(bench.service.isProbing)
    // The stop doesn't wait for them.
    let start = ContinuousClock.now
    await bench.service.stop(grace: .seconds(5))
    #expect(ContinuousClock.now - start < .seconds(5))
  }

  @Test func silentRepositoryDelaysOnlyItsOwnJobs() async throws {
    let (stored, engine) = (InMemoryCatalog(), ScriptedEngine())
    let first = try await ServiceBench(catalog: stored, engine: engine)
    for name in ["local", "nas"] as [ResourceName] { try await first.repository(name) }
    try await first.image("vm1")
    // A backup that a kill left behind.
    let left = try await first.end(of: first.backUp("vm1", into: "nas")).backups[0]
    try await stored.write { catalog in
      var backup = try #require(try catalog.backup(left))
      (backup.state, backup.finishedAt, backup.merkleRoot) = (.running, nil, nil)
      try catalog.update(backup)
    }
    let gate = Gate()
    let bench = try await restart(stored, engine, at: gate) { order in
      if case .recover(let location, _) = order { location.path.hasSuffix("nas") } else { false }
    }
    let waits = try await bench.backUp("vm1", into: "nas")
    let row = try await bench.job(waits.id) { $0.waitingFor != nil }
    #expect(row.waitingFor == "the first look at repository 'nas' since the start")
    #expect(try await bench.end(of: bench.backUp("vm1", into: "local")).state == .succeeded)
    #expect(try bench.service.backup(left).backup.state == .running)
    gate.open()
    // What was begun meanwhile isn't taken for what the kill left.
    #expect(try await bench.end(of: waits).state == .succeeded)
    #expect(try bench.service.backup(waits.backups[0]).backup.state == .complete)
    #expect(try bench.service.backup(left).backup.state == .complete)
  }

  @Test func silentDeclarationsComeUpLater() async throws {
    let declared = Declarations(
      repositories: [RepositoryDraft(name: "nas", path: "/backup/nas")],
      images: [ImageDraft(name: "vm1", source: .file(path: "/images/vm1"), format: .raw)])
    let gate = Gate()
    let bench = try await restart(InMemoryCatalog(), at: gate, declarations: declared) { order in
      switch order {
      case .openRepository, .inspect: true
      default: false
      }
    }
    #expect(try bench.service.repositories(PageRequest()).items.isEmpty)
    gate.open()
    try await eventually("they are there") {
      (try? bench.service.image(.name("vm1")).state) == .detached
        && (try? bench.service.repository(.name("nas")).state) == .ready
    }
    #expect(try await bench.end(of: bench.backUp("vm1", into: "nas")).state == .succeeded)
  }

  /// What can't be looked at is compared by its spelling only, and the plan says so.
  @Test(.timeLimit(.minutes(1))) func silentImageHoldsUpARegistrationForAWhileOnly() async throws {
    let bench = try await ServiceBench { $0.comparisonTimeout = .milliseconds(100) }
    try await bench.image("vm1")
    try await bench.image("hung", path: "/far/hung")
    let gate = Gate()
    bench.engine.script { script in
      script.identity = { ["/images/vm1", "/images/link"].contains($0.place) ? .file(device: 1, inode: 7) : nil }
      script.silence(at: gate) { $0 == .identities([.file(path: "/far/hung")]) }
    }
    for name in ["a", "b", "c"] as [ResourceName] { try await bench.image(name) }
    let refusal = await expectRefusal(.sourceTaken) { try await bench.image("d", path: "/far//hung") }
    #expect(refusal?.detail.contains("'hung'") == true)
    // Plans, so that a busy machine, on which more is silent for so short a time, can be asked again.
    func plan(_ path: String) async throws -> Plan {
      let draft = ImageDraft(name: "d", source: .file(path: path), format: .raw)
      return try await bench.service.registerImage(draft, ChangeConditions(dryRun: true)).planned()
    }
    try await eventually("the one that hangs is named") {
      try await plan("/images/d").warnings
        == ["whether it is the file of these images can't be told at the moment: 'hung'"]
    }
    try await eventually("the others are compared all the same") {
      do { return try await plan("/images/link").warnings.isEmpty } catch let error as DomainError {
        return error.code == .sourceTaken
      }
    }
    // One look, which all of them shared.
    #expect(gate.arrivals == 1)
    gate.open()
    try await eventually("it is looked at again") {
      try await plan("/images/d").warnings.isEmpty
    }
  }

  @Test(.timeLimit(.minutes(1))) func silentDeclaredImageHoldsUpTheStartForAWhileOnly() async throws {
    func draft(_ name: ResourceName, _ path: String) -> ImageDraft {
      ImageDraft(name: name, source: .file(path: path), format: .raw)
    }
    let declared = [draft("vm1", "/images/vm1"), draft("hung", "/far/hung"), draft("vm2", "/images/link")]
    let (gate, engine) = (Gate(), ScriptedEngine())
    engine.script { script in
      script.identity = { ["/images/vm1", "/images/link"].contains($0.place) ? .file(device: 1, inode: 7) : nil }
      script.silence(at: gate) { $0 == .identities([.file(path: "/far/hung")]) }
    }
    // What can be told is told all the same.
    await expectRefusal(.sourceTaken) {
      try await ServiceBench(engine: engine, declarations: Declarations(images: declared)) {
        $0.comparisonTimeout = .seconds(2)
      }.service
    }
    let bench = try await ServiceBench(engine: engine, declarations: Declarations(images: Array(declared.prefix(2)))) {
      $0.comparisonTimeout = .milliseconds(50)
    }
    #expect(try Set(bench.service.images(PageRequest()).items.map(\.name)) == ["vm1", "hung"])
    gate.open()
  }

  /// The exports and attached images of others aren't held up by an operation that hangs.
  @Test func hungExportHoldsUpOnlyItsOwnImage() async throws {
    let bench = try await ServiceBench()
    for name in ["vm1", "vm2"] as [ResourceName] { try await bench.image(name) }
    let gate = Gate()
    bench.engine.script { script in
      script.silence(at: gate) { if case .export(let order) = $0 { order.name == "hung" } else { false } }
    }
    async let hung = bench.export("hung")
    try await gate.reached()
    try await bench.export("disk1", of: "vm2", isReadOnly: false)
    _ = try await bench.service.deleteExport(.name("disk1"), .safe).done()
    try await bench.attach("vm2")
    gate.open()
    #expect(try await hung.state == .active)
    try bench.expectInLine()
  }
}
