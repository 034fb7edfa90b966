import Catalog
import Model
import ModelTesting
import Testing

struct CatalogConformanceTests {
  @Test(arguments: BackupCatalogConformance.checks)
  func sqliteCatalogKeepsThePort(_ check: BackupCatalogConformance.Check) async throws {
    let folder = try TemporaryFolder()
    try await check.run { try SQLiteCatalog(stateFolder: folder.path) }
  }

  @Test func everythingIsThereAgainAfterReopening() async throws {
    let folder = try TemporaryFolder()
    let image = Image.sample(
      attachment: Attachment(cache: .writeback, cause: .export), labels: ["tier": "gold"])
    let repository = Repository.sample()
    let chain = Chain.sample(of: image, in: repository)
    let backup = Backup.sample(in: chain)
    let job = Job.sample(.verify(backup: backup.id, level: .checksum))
    let export = Export.sample(of: .backup(backup.id), listen: .tcp(host: "::1", port: 10_809))
    let entry = JobLogEntry(sequence: 1, at: ManualClock.epoch, level: .info, message: "hello")
    let first = try SQLiteCatalog(stateFolder: folder.path)
    let event = try await first.write { transaction in
      try transaction.insert(image)
      try transaction.insert(repository)
      try transaction.insert(chain)
      try transaction.insert(backup)
      try transaction.insert(export)
      try transaction.insert(job)
      try transaction.append(entry, to: job.id)
      return try transaction.append(Event(at: ManualClock.epoch, kind: .imageCreated, subject: image.id.ulid))
    }
    try first.close()

    let second = try SQLiteCatalog(stateFolder: folder.path)
    try second.read { (view: any CatalogReading) throws in
      #expect(try view.image(image.id) == image)
      #expect(try view.repository(repository.id) == repository)
      #expect(try view.chain(chain.id) == chain)
      #expect(try view.backup(backup.id) == backup)
      #expect(try view.export(export.id) == export)
      #expect(try view.job(job.id) == job)
      #expect(try view.jobLog(job.id, PageRequest()).items == [entry])
      #expect(try view.events(after: 0, job: nil, limit: 10) == [event])
    }
    try second.close()
  }

  /// Rows of released versions hold this text: a change of the Swift type must not change how it is read.
  @Test func storedJobRequestsKeepTheirForm() async throws {
    let id = "01J00000000000000000000000"
    let forms = [
      #"{"verify":{"backup":"\#(id)","level":"checksum"}}"#,
      #"{"restore":{"backup":"\#(id)","target":{"newFile":{"format":"raw","path":"/images/a.raw"}}}}"#,
      #"{"restore":{"backup":"\#(id)","target":{"image":{"_0":"\#(id)"}}}}"#,
      #"{"restore":{"backup":"\#(id)","target":{"nbd":{"targetIsZero":true,"uri":"nbd://[::1]:10809/x"}}}}"#,
      #"{"deleteBackup":{"backup":"\#(id)"}}"#,
      #"{"rescan":{"repository":"\#(id)"}}"#,
      #"{"check":{"image":"\#(id)","repairsLeaks":true}}"#,
      #"{"attach":{"cache":"direct","image":"\#(id)"}}"#,
      #"{"attach":{"image":"\#(id)"}}"#,
      #"{"detach":{"image":"\#(id)"}}"#,
      #"{"backup":{"_0":{"backups":["\#(id)"],"compression":"zstd","group":"\#(id)","images":["\#(id)"],"#
        + #""kind":"copy","repository":"\#(id)","speedLimit":0}}}"#,
    ]
    let ulid = try #require(ULID(id))
    let backup = BackupID(ulid)
    let requests: [JobRequest] = [
      .verify(backup: backup, level: .checksum),
      .restore(backup: backup, target: .newFile(path: "/images/a.raw", format: .raw)),
      .restore(backup: backup, target: .image(ImageID(ulid))),
      .restore(backup: backup, target: .nbd(uri: "nbd://[::1]:10809/x", targetIsZero: true)),
      .deleteBackup(backup: backup),
      .rescan(repository: RepositoryID(ulid)),
      .check(image: ImageID(ulid), repairsLeaks: true),
      .attach(image: ImageID(ulid), cache: .direct),
      .attach(image: ImageID(ulid), cache: nil),
      .detach(image: ImageID(ulid)),
      .backup(
        BackupJobRequest(
          images: [ImageID(ulid)], backups: [backup], group: ulid, repository: RepositoryID(ulid), kind: .copy,
          compression: .zstd, speedLimit: 0)),
    ]
    let folder = try TemporaryFolder()
    let catalog = try SQLiteCatalog(stateFolder: folder.path)
    #expect(forms.count == requests.count)
    for (request, form) in zip(requests, forms) {
      let job = Job.sample(request)
      try await catalog.write { try $0.insert(job) }
      let stored = try catalog.read { view in
        try (view as? CatalogSession)?.text("SELECT request FROM jobs WHERE id = '\(job.id)'")
      }
      #expect(stored == form)
      #expect(try catalog.read { try $0.job(job.id) } == job)
    }
    try catalog.close()
  }
}
