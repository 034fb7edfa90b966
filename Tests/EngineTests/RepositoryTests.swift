import Engine
import EventLoops
import Foundation
import Model
import ModelTesting
import Repositories
import Testing

/// A repository as its files tell it, and how it is put right.
struct RepositoryTests {
  private func withBackup(
    lease: LeaseTiming = LeaseTiming(), _ body: (TestEngine, TestEngine.Made) async throws -> Void
  ) async throws {
    try await withEngine(lease: lease) { test in
      let source = test.images + "/vm.raw"
      try SampleImage.raw(at: source, byteCount: 1 << 20, seed: 41)
      try await body(test, try await test.backUp(test.record("vm", source, .raw)))
    }
  }

  private func refusal(_ body: () async throws -> Void) async -> ProblemCode? {
    do { try await body() } catch { return (error as? DomainError)?.code }
    return nil
  }

  @Test func scanTellsAllThatTheCatalogKnew() async throws {
    try await withBackup { test, made in
      let other = try await test.engine.backUp(
        test.order(made.order.image, .none), control: RecordingJobControl())
      let scan = try await test.engine.scan(test.repository)
      #expect(scan.findings == [])
      #expect(scan.images == [made.order.image])
      #expect(scan.chains.count == 2)
      let chain = try #require(scan.chains.first { $0.id == made.order.newChain })
      #expect(chain.imageName == "vm" && chain.image == made.order.image.id && chain.repository == test.repository.id)
      let backup = try #require(scan.backups.first { $0.id == made.order.backup })
      #expect(
        backup.group == made.order.group && backup.reason == "a full backup was asked for" && backup.kind == .full)
      #expect(backup.state == .complete && backup.compression == .zstd && backup.consistency == .offline)
      #expect(backup.pointInTime == made.receipt.pointInTime && backup.finishedAt == made.receipt.finishedAt)
      #expect(backup.virtualSize == made.receipt.virtualSize && backup.dirtyBytes == made.receipt.dirtyBytes)
      #expect(backup.storedSize == made.receipt.storedSize && backup.merkleRoot == made.receipt.merkleRoot)
      #expect(scan.backups.contains { $0.merkleRoot == other.merkleRoot && $0.compression == .none })
    }
  }

  @Test func mixtureIsToldByItsManifest() async throws {
    try await withBackup { test, made in
      var order = test.order(made.order.image)
      order.mixture = "a restore that ended early"
      _ = try await test.backUp(order)
      let scan = try await test.engine.scan(test.repository)
      #expect(scan.findings == [] && scan.backups.count == 2)
      for backup in scan.backups { #expect(backup.isMixture == (backup.id == order.backup)) }
      #expect(
        try String(contentsOfFile: test.place(order).fullPath(.manifest), encoding: .utf8).contains(
          "\"mixture\" : true"))
    }
  }

  @Test func manifestThatCannotBeReadIsNotTakenForNone() async throws {
    try await withBackup { test, made in
      try Data("{}".utf8).write(to: URL(fileURLWithPath: made.place.fullPath(.manifest)))
      let scan = try await test.engine.scan(test.repository)
      #expect(scan.backups.isEmpty && scan.unreadable == [made.order.backup])
    }
  }

  @Test func manifestTellsWhatHadTheBackupMade() async throws {
    try await withBackup { test, made in
      let bytes = Array(try SampleImage.bytes(made.place.fullPath(.manifest)))
      #expect(try CheckedDocumentCodec.decode(Manifest.self, from: bytes).madeBy == .hand)
    }
  }

  /// Nothing puts anything there yet; what a later version did stays, and is no stranger.
  @Test func trashIsTheRepositorysOwn() async throws {
    try await withBackup(lease: LeaseTiming(duration: .seconds(1))) { test, made in
      let trash = test.repositoryPath + "/trash"
      let name = TrashName(deletedAt: Date(), backup: made.order.backup).text
      try FileManager.default.createDirectory(atPath: "\(trash)/\(name)", withIntermediateDirectories: true)
      try FileManager.default.copyItem(
        atPath: made.dataPath, toPath: "\(trash)/\(name)/\(made.place.name(.data))")
      try Data("x".utf8).write(to: URL(fileURLWithPath: trash + "/notes.txt"))
      let before = TestEngine.files(beneath: trash)
      let scan = try await test.engine.scan(test.repository)
      #expect(scan.findings == ["trash/notes.txt doesn't belong here"])
      #expect(scan.backups.map(\.id) == [made.order.backup])
      let report = try await test.engine.recover(test.repository, liveJobs: [])
      #expect(report.removed == [] && report.quarantined == [])
      #expect(TestEngine.files(beneath: trash) == before)
      #expect(try await test.engine.openRepository(at: test.repositoryPath, id: RepositoryID()) == test.repository.id)
    }
  }

  @Test func renamedImageKeepsItsFolder() async throws {
    try await withBackup { test, made in
      var image = made.order.image
      image.name = "other"
      image.labels = ["a": "b"]
      let before = test.storedFiles
      try await test.engine.record(image, in: test.repository)
      try await test.engine.record(test.record("stranger", "/x", .raw), in: test.repository)
      #expect(test.storedFiles == before)
      let scan = try await test.engine.scan(test.repository)
      #expect(scan.images == [image])
      #expect(scan.chains.map(\.imageName) == ["other"])
    }
  }

  @Test func strayAndDamagedFilesAreFindingsAndStay() async throws {
    try await withBackup { test, made in
      let folder = test.repositoryPath + "/" + made.place.folder
      let strays = ["/images/notes.txt", "/images/\(made.order.image.id)/stray", "/\(made.place.folder)/0001-x.qcow2"]
      for path in strays { try Data("x".utf8).write(to: URL(fileURLWithPath: test.repositoryPath + path)) }
      let orphan = BackupFileName(sequence: 1, backup: BackupID(), part: .data).text
      try Data("x".utf8).write(to: URL(fileURLWithPath: "\(folder)/\(orphan)"))
      let huge = BackupFileName(sequence: 2, backup: BackupID(), part: .manifest).text
      try Data(repeating: 0x20, count: 1 << 20).write(to: URL(fileURLWithPath: "\(folder)/\(huge)"))
      let before = test.storedFiles
      let scan = try await test.engine.scan(test.repository)
      for name in ["notes.txt", "stray", "0001-x.qcow2", orphan, huge] {
        #expect(scan.findings.contains { $0.contains(name) }, "\(name): \(scan.findings)")
      }
      #expect(scan.backups.map(\.id) == [made.order.backup])
      #expect(test.storedFiles == before)
    }
  }

  /// What has a file's name may be anything by now. Whatever it is, it costs no other backup its place in the scan.
  @Test(arguments: ["folder", "link that leads out", "link in a circle", "FIFO"])
  func whatStandsForAFileIsAFindingAndCostsNoOtherBackup(_ kind: String) async throws {
    try await withBackup { test, made in
      let other = try await test.backUp(test.record("other", test.images + "/vm.raw", .raw), .none)
      let image = RepositoryPath.imageDocument(made.place.image)
      for path in [image] + [BackupFileName.Part.manifest, .data, .hashes].map(made.place.path) {
        let full = "\(test.repositoryPath)/\(path)"
        let aside = test.images + "/aside"
        #expect(rename(full, aside) == 0)
        switch kind {
        case "folder": #expect(mkdir(full, 0o700) == 0)
        case "link that leads out": #expect(symlink(aside, full) == 0)
        case "link in a circle": #expect(symlink(FilePath.name(of: full), full) == 0)
        default: #expect(mkfifo(full, 0o600) == 0)
        }
        let scan = try await test.engine.scan(test.repository)
        #expect(scan.findings.contains { $0.contains(path) }, "\(path): \(scan.findings)")
        #expect(scan.backups.contains { $0.id == other.order.backup && $0.state == .complete }, "\(path)")
        if path == image {
          #expect(scan.backups.count == 2)
        } else if path == made.place.path(.manifest) {
          #expect(scan.backups.count == 1)
        } else {
          #expect(scan.backups.first { $0.id == made.order.backup }?.state == .corrupt, "\(path)")
          let code = await refusal { _ = try await test.verify(made.place) }
          let findings = code == nil ? try await test.verify(made.place).findings : []
          #expect(code == .backupCorrupt || !findings.isEmpty, "\(path): \(String(describing: code))")
        }
        #expect(remove(full) == 0)
        #expect(rename(aside, full) == 0)
      }
      #expect(try await test.engine.scan(test.repository).findings == [])
    }
  }

  /// A server that is killed between making an image's folder and writing image.json leaves it empty.
  @Test func emptyFolderOfAnImageIsNoFinding() async throws {
    try await withBackup { test, made in
      #expect(mkdir("\(test.repositoryPath)/\(RepositoryPath.image(ImageID()))", 0o750) == 0)
      let scan = try await test.engine.scan(test.repository)
      #expect(scan.findings == [] && scan.images.map(\.id) == [made.order.image.id])
    }
  }

  @Test func openingTellsOneRepositoryFromAnother() async throws {
    try await withBackup { test, made in
      let id = RepositoryID()
      #expect(try await test.engine.openRepository(at: test.repositoryPath, id: id) == test.repository.id)
      let wrong = RepositoryLocation(id: id, path: test.repositoryPath)
      #expect(await refusal { _ = try await test.engine.scan(wrong) } == .repositoryMismatch)
      let other = test.root + "/backup/other"
      #expect(
        await refusal { _ = try await test.engine.scan(RepositoryLocation(id: id, path: other)) }
          == .repositoryUnavailable)
      try FileManager.default.createDirectory(atPath: other, withIntermediateDirectories: true)
      #expect(
        await refusal { _ = try await test.engine.scan(RepositoryLocation(id: id, path: other)) }
          == .repositoryUnavailable)
      try Data("x".utf8).write(to: URL(fileURLWithPath: other + "/thesis.doc"))
      #expect(await refusal { _ = try await test.engine.openRepository(at: other, id: id) } == .repositoryMismatch)
      #expect(TestEngine.files(beneath: other) == ["thesis.doc"])
      // Without a manifest nothing tells whose the files are.
      try FileManager.default.removeItem(atPath: made.place.fullPath(.manifest))
      try FileManager.default.removeItem(atPath: test.repositoryPath + "/repository.json")
      #expect(
        await refusal { _ = try await test.engine.openRepository(at: test.repositoryPath, id: id) }
          == .repositoryMismatch)
      #expect(await refusal { _ = try await test.engine.scan(test.repository) } == .repositoryUnavailable)
    }
  }

  @Test func recoveryRemovesOnlyOwnLeftoversOfDeadJobs() async throws {
    try await withBackup { test, made in
      let folder = test.repositoryPath + "/" + made.place.folder
      let (dead, live) = (JobID(), JobID())
      func part(_ writer: ULID, _ job: JobID) throws -> String {
        let name = PartFileName(target: made.place.name(.data), writer: writer, job: job).text
        try Data("x".utf8).write(to: URL(fileURLWithPath: "\(folder)/\(name)"))
        return name
      }
      let mine = try part(test.writer, dead)
      let busy = try part(test.writer, live)
      let foreign = try part(ULID(), dead)
      let report = try await test.engine.recover(test.repository, liveJobs: [live])
      #expect(report.removed == ["\(made.place.folder)/\(mine)"])
      #expect(report.quarantined == [])
      let left = TestEngine.files(beneath: folder)
      #expect(left.contains(busy) && left.contains(foreign) && !left.contains(mine))
      #expect(try await test.verify(made.place).findings == [])
    }
  }

  @Test func leftoversOfKilledRestoresAreRemovedWhereverTheyAre() async throws {
    try await withEngine { test in
      let folder = test.images + "/deep/down"
      try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
      let (dead, live) = (JobID(), JobID())
      let names = [(test.writer, dead), (test.writer, live), (ULID(), dead)].map {
        PartFileName(target: ".restore", writer: $0, job: $1).text
      }
      for name in names { try Data("x".utf8).write(to: URL(fileURLWithPath: "\(folder)/\(name)")) }
      try Data("x".utf8).write(to: URL(fileURLWithPath: "\(folder)/guest.part"))
      #expect(try await test.engine.removeRestoreLeftovers(liveJobs: [live]) == ["deep/down/\(names[0])"])
      #expect(Set(TestEngine.files(beneath: folder)) == [names[1], names[2], "guest.part"])
    }
  }

  @Test func finishedFilesWithoutAManifestAreSetAsideUnlessSomebodyBuildsOnThem() async throws {
    try await withBackup { test, made in
      let folder = test.repositoryPath + "/" + made.place.folder
      let orphan = BackupFileName(sequence: 1, backup: BackupID(), part: .data).text
      let base = BackupFileName(sequence: 2, backup: BackupID(), part: .data).text
      let child = BackupFileName(sequence: 3, backup: BackupID(), part: .data).text
      for name in [orphan, base] { try Tool.run("qemu-img", "create", "-q", "-f", "qcow2", "\(folder)/\(name)", "1M") }
      try Tool.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", "\(folder)/\(child)")
      let report = try await test.engine.recover(test.repository, liveJobs: [])
      #expect(report.removed == [])
      #expect(report.quarantined == [orphan, child].map { "quarantine/\(made.order.newChain)-\($0)" })
      #expect(TestEngine.files(beneath: folder).contains(base))
      #expect(TestEngine.files(beneath: test.repositoryPath + "/quarantine").count == 2)
      #expect(try await test.verify(made.place).findings == [])
    }
  }

  @Test func deletionLeavesATombstoneThatGoesWhenItsTimeIsOver() async throws {
    try await withBackup(lease: LeaseTiming(duration: .seconds(1))) { test, made in
      try await test.engine.delete(made.place, control: RecordingJobControl())
      #expect(
        test.storedFiles.filter { !$0.hasSuffix("image.json") } == [
          made.place.path(.tombstone).replacingOccurrences(of: "images/", with: "")
        ])
      let scan = try await test.engine.scan(test.repository)
      #expect(scan.backups == [] && scan.chains == [] && scan.findings == [])
      #expect(
        await refusal { try await test.restore(made.place, to: test.images + "/back.raw", .raw) } == .backupNotComplete)
      // A second time there is nothing to do.
      try await test.engine.delete(made.place, control: RecordingJobControl())
      try await Task.sleep(for: .milliseconds(2200))
      _ = try await test.engine.recover(test.repository, liveJobs: [])
      #expect(test.storedFiles.allSatisfy { $0.hasSuffix("image.json") })
      try await test.engine.delete(made.place, control: RecordingJobControl())
    }
  }

  @Test func folderOfABackupThatBeginsIsLeftAlone() async throws {
    try await withBackup { test, made in
      let begun = "\(test.repositoryPath)/\(RepositoryPath.image(made.place.image))/\(ChainID())"
      try FileManager.default.createDirectory(atPath: begun, withIntermediateDirectories: false)
      _ = try await test.backUp(made.order.image)
      #expect(FileManager.default.fileExists(atPath: begun))
    }
  }

  @Test func backupThatAnotherFileBuildsOnIsNotDeleted() async throws {
    try await withBackup { test, made in
      let folder = test.repositoryPath + "/" + made.place.folder
      let child = BackupFileName(sequence: 1, backup: BackupID(), part: .data).text
      try Tool.run(
        "qemu-img", "create", "-q", "-f", "qcow2", "-b", made.place.name(.data), "-F", "qcow2", "\(folder)/\(child)")
      #expect(
        await refusal { try await test.engine.delete(made.place, control: RecordingJobControl()) }
          == .backupHasDependents)
      #expect(try await test.verify(made.place).findings == [])
    }
  }

  @Test func stoppingWaitsForTheJobsInFlight() async throws {
    try await withBackup { test, made in
      let control = RecordingJobControl()
      control.pause()
      let order = test.order(made.order.image)
      async let receipt = test.engine.backUp(order, control: control)
      for _ in 0..<6000 where control.checkpoints == 0 { try await Task.sleep(for: .milliseconds(10)) }
      control.resume()
      await test.engine.shutDown()
      #expect(try await test.engine.scan(test.repository).backups.count == 2)
      _ = try await receipt
    }
  }

  @Test func extentsComeInPagesAndCoverTheImage() async throws {
    try await withEngine { test in
      let source = test.images + "/vm.qcow2"
      let raw = test.root + "/vm.raw"
      try SampleImage.raw(at: raw, byteCount: 5 << 20, seed: 42)
      try Tool.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, source)
      let location = ImageLocation(source: .file(path: source), format: .qcow2)
      let whole = try await test.engine.extents(of: location, offset: 0, length: nil, limit: 1000)
      #expect(whole.nextOffset == nil && whole.items.count > 3)
      var items: [ExtentPage.Item] = []
      var next: UInt64? = 0
      while let offset = next, items.count <= whole.items.count {
        let page = try await test.engine.extents(of: location, offset: offset, length: nil, limit: 2)
        #expect(page.items.count <= 2 && page.generation == whole.generation)
        items += page.items
        next = page.nextOffset
      }
      #expect(items == whole.items)
      #expect(items.reduce(0) { $0 + $1.length } == 5 << 20)
      #expect(items.allSatisfy { $0.data != $0.zero })
      let part = try await test.engine.extents(of: location, offset: 1 << 20, length: 70_000, limit: 1000)
      #expect(part.items.reduce(0) { $0 + $1.length } == 70_000)
      #expect(
        await refusal {
          _ = try await test.engine.extents(of: location, offset: 6 << 20, length: nil, limit: 1)
        } == .invalidParameter)
      try Tool.run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 4k", source)
      #expect(
        try await test.engine.extents(of: location, offset: 0, length: nil, limit: 1).generation != whole.generation)
    }
  }

  /// The id stands in every manifest: the file can be written anew.
  @Test(arguments: [nil, "", "\0\0\0\0"])
  func lostDocumentIsWrittenAnewFromTheManifests(_ rest: String?) async throws {
    try await withBackup { test, made in
      let document = test.repositoryPath + "/repository.json"
      func lose() throws {
        try FileManager.default.removeItem(atPath: document)
        if let rest { try Data(rest.utf8).write(to: URL(fileURLWithPath: document)) }
      }
      try lose()
      #expect(try await test.verify(made.place).findings == [])
      let scan = try await test.engine.scan(test.repository)
      #expect(scan.findings.count == 1 && scan.findings[0].contains("repository.json was lost"), "\(scan.findings)")
      #expect(scan.backups.map(\.id) == [made.order.backup])
      #expect(try await test.engine.scan(test.repository).findings == [])

      // By a server that never saw it, as it is registered.
      try lose()
      let other = try await TestEngine(root: test.root, repository: test.repository)
      #expect(
        try await other.engine.openRepository(at: test.repositoryPath, id: RepositoryID()) == test.repository.id)
      #expect(try await other.engine.scan(test.repository).findings.count == 1)
      await other.engine.shutDown()

      // Under another id it isn't taken over, nor changed.
      try lose()
      let wrong = RepositoryLocation(id: RepositoryID(), path: test.repositoryPath)
      #expect(await refusal { _ = try await test.engine.scan(wrong) } == .repositoryMismatch)
      #expect((try? Data(contentsOf: URL(fileURLWithPath: document)))?.count == rest?.utf8.count)
    }
  }

  @Test func lostDocumentOfBackupsThatDisagreeIsLeftToThePerson() async throws {
    try await withBackup { test, made in
      let folder = test.repositoryPath + "/" + made.place.folder
      var manifest = try CheckedDocumentCodec.decode(
        Manifest.self, from: [UInt8](Data(contentsOf: URL(fileURLWithPath: made.place.fullPath(.manifest)))))
      manifest.repository = RepositoryID()
      manifest.sequence = 1
      let stray = BackupFileName(sequence: 1, backup: manifest.backup, part: .manifest).text
      try Data(CheckedDocumentCodec.encode(manifest)).write(to: URL(fileURLWithPath: "\(folder)/\(stray)"))
      try FileManager.default.removeItem(atPath: test.repositoryPath + "/repository.json")
      #expect(await refusal { _ = try await test.engine.scan(test.repository) } == .repositoryMismatch)
      #expect(
        await refusal { _ = try await test.engine.openRepository(at: test.repositoryPath, id: RepositoryID()) }
          == .repositoryMismatch)
      #expect(!FileManager.default.fileExists(atPath: test.repositoryPath + "/repository.json"))
    }
  }
}
