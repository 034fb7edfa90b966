import Model
import ModelTesting
import Orchestrator
import Testing

/// What a group is, and whether all of it is there.
@Suite struct GroupViewTests {
  private static let names: [ResourceName] = ["a", "b", "c"]

  private static func bench(_ engine: ScriptedEngine = ScriptedEngine()) async throws -> ServiceBench {
    let bench = try await ServiceBench(engine: engine)
    try await bench.repository()
    for name in names { try await bench.image(name) }
    return bench
  }

  /// Backs up all three; returns the rows in the order of the names.
  private static func backUp(_ bench: ServiceBench) async throws -> [Backup] {
    let draft = BackupDraft(images: names.map { .name($0) }, repository: .name("local"), onFailure: .continue)
    let job = try await bench.end(of: bench.service.createBackup(draft).done())
    return try job.backups.map { try bench.service.backup($0).backup }
  }

  private static func rescan(_ bench: ServiceBench) async throws {
    let job = try await bench.end(of: bench.service.rescanRepository(.name("local")).done())
    #expect(job.state == .succeeded)
  }

  private static func lose(_ backup: Backup, _ bench: ServiceBench) async throws {
    let location = StoredBackupLocation(
      repository: try bench.service.repository(.name("local")).location, image: backup.image, chain: backup.chain,
      sequence: 0, backup: backup.id)
    try await bench.engine.delete(location, control: RecordingJobControl())
  }

  /// The group names all three images, whatever is left of their backups.
  @discardableResult
  private static func expect(
    _ bench: ServiceBench, _ backups: [Backup], names: [ResourceName?] = names, complete: Bool,
    sourceLocation: SourceLocation = #_sourceLocation
  ) throws -> GroupView {
    let group = try bench.service.group(backups[0].group)
    #expect(group.images.map(\.imageName) == names, sourceLocation: sourceLocation)
    #expect(group.backups == backups.map(\.id).sorted(), sourceLocation: sourceLocation)
    #expect(group.isComplete == complete, sourceLocation: sourceLocation)
    return group
  }

  @Test func completeGroupNamesItsImagesAndBackups() async throws {
    let bench = try await Self.bench()
    let backups = try await Self.backUp(bench)
    let group = try Self.expect(bench, backups, complete: true)
    #expect(group.id == backups[0].group && group.images.map(\.image) == backups.map(\.image))
    #expect(group.pointInTime == backups[0].pointInTime)
    // Another request is another moment.
    let others = try await Self.backUp(bench)
    #expect(others[0].group != group.id)
    try Self.expect(bench, backups, complete: true)
    await expectRefusal(.notFound) { try bench.service.group(ULID()) }
  }

  @Test func failedMemberLeavesItIncomplete() async throws {
    let bench = try await Self.bench()
    bench.engine.script { $0.begin = { if $0.image.name == "b" { throw DomainError(.imageLocked, "locked") } } }
    let backups = try await Self.backUp(bench)
    #expect(backups.map(\.state) == [.complete, .failed, .complete])
    let group = try Self.expect(bench, backups, complete: false)
    #expect(group.pointInTime == backups[0].pointInTime)
    // What failed is in no repository, nor is its image's name. The manifests of the others tell of it.
    let other = try await Self.empty(bench)
    try await Self.rescan(other)
    try Self.expect(other, [backups[0], backups[2]], names: ["a", nil, "c"], complete: false)
  }

  /// With each deletion less is left, down to the last.
  @Test func deletedMemberLeavesItIncomplete() async throws {
    let bench = try await Self.bench()
    var backups = try await Self.backUp(bench)
    while backups.count > 1 {
      _ = try await bench.end(of: bench.service.deleteBackup(backups.removeFirst().id).done())
      try Self.expect(bench, backups, complete: false)
      try await Self.rescan(bench)
      try Self.expect(bench, backups, complete: false)
    }
    let last = backups[0]
    _ = try await bench.end(of: bench.service.deleteBackup(last.id).done())
    await expectRefusal(.notFound) { try bench.service.group(last.group) }
  }

  @Test func corruptMemberLeavesItIncomplete() async throws {
    let bench = try await Self.bench()
    let backups = try await Self.backUp(bench)
    bench.engine.script { script in
      script.verify = { _ in VerifyReport(findings: ["bad"], findingCount: 1, verifiedBytes: 0) }
    }
    _ = try await bench.end(of: bench.service.verifyBackup(backups[1].id, level: .checksum).done())
    try Self.expect(bench, backups, complete: false)
  }

  @Test func memberThatTheRepositoryLostLeavesItIncomplete() async throws {
    let bench = try await Self.bench()
    let backups = try await Self.backUp(bench)
    let whole = try await Self.empty(bench)
    try await Self.rescan(whole)
    try Self.expect(whole, backups, complete: true)

    try await Self.lose(backups[1], bench)
    for known in [bench, whole] {
      try await Self.rescan(known)
      try Self.expect(known, backups, complete: false)
    }
    let other = try await Self.empty(bench)
    try await Self.rescan(other)
    try Self.expect(other, [backups[0], backups[2]], complete: false)
  }

  /// Images that are named, and of which nothing else is known.
  @Test func imageThatIsGoneIsNamedByItsID() async throws {
    let bench = try await Self.bench()
    let backups = try await Self.backUp(bench)
    _ = try await bench.end(of: bench.service.deleteBackup(backups[0].id).done())
    for backup in backups.prefix(2) { _ = try await bench.service.unregisterImage(.id(backup.image)) }
    let group = try bench.service.group(backups[0].group)
    #expect(group.images.map(\.image).sorted() == backups.map(\.image).sorted())
    let names = Dictionary(uniqueKeysWithValues: group.images.map { ($0.image, $0.imageName) })
    #expect(names == [backups[0].image: nil, backups[1].image: "b", backups[2].image: "c"])
    #expect(!group.isComplete)
  }

  /// As a version that didn't note a group's images left them.
  @Test func whereTheImagesAreNotKnownEachBackupCountsForItself() async throws {
    let bench = try await Self.bench()
    let backups = try await Self.backUp(bench)
    try await bench.stored.write { catalog in
      for backup in backups {
        guard var row = try catalog.backup(backup.id) else { continue }
        row.groupImages = []
        try catalog.update(row)
      }
    }
    let group = try bench.service.group(backups[0].group)
    #expect(Set(group.images.map(\.image)) == Set(backups.map(\.image)) && group.isComplete)
    // One that knows them tells for all.
    try await bench.stored.write { catalog in
      guard var row = try catalog.backup(backups[2].id) else { return }
      row.groupImages = backups.map(\.image) + [ImageID()]
      try catalog.update(row)
    }
    #expect(try bench.service.group(backups[0].group).images.count == 4)
    #expect(try !bench.service.group(backups[0].group).isComplete)
  }

  /// Another server over the same storage, which knows nothing yet.
  private static func empty(_ bench: ServiceBench) async throws -> ServiceBench {
    let other = try await ServiceBench(engine: bench.engine)
    try await other.repository()
    return other
  }
}
