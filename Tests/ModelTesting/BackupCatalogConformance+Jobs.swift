import Foundation
import Model

extension BackupCatalogConformance {
  static let jobs: [Check] = [
    Check("jobs of every kind come back as they were stored") { catalog in
      let date = Date(timeIntervalSince1970: 1_767_225_600.999)
      let all = requests.map { request in
        Job(
          request: request, state: .failed, progress: JobProgress(done: 1, total: 2, rate: 3, eta: 4), createdAt: date,
          startedAt: date, finishedAt: date, waitingFor: "the image vm1", pausedUntil: date, retryOf: JobID(),
          result: .other(["backups": [["outcome": "failed", "size": 5, "ratio": .number(0.5), "more": nil]]]),
          error: ProblemDetails(DomainError(.storageFull, "no room", remedy: "make room")),
          links: JobLinks(image: ImageID(), backups: [BackupID(), BackupID()]), revision: 3)
      }
      let bare = Job.sample()
      try await catalog.write { transaction in for job in all + [bare] { try transaction.insert(job) } }
      for job in all + [bare] { try expectEqual(try catalog.read { try $0.job(job.id) }, job) }
      try expectEqual(try catalog.read { try $0.job(JobID()) }, nil)
    },
    Check("a job's update raises the revision, and a stale one is refused") { catalog in
      let job = Job.sample()
      var running = job
      running.state = .running
      running.startedAt = ManualClock.epoch
      try await catalog.write { try $0.insert(job) }
      let updated = try await catalog.write { [running] in try $0.update(running) }
      running.revision = 2
      try expectEqual(updated, running)
      try await expectRefusal(.preconditionFailed, "stale") { try await catalog.write { try $0.update(job) } }
      try await expectRefusal(.notFound, "none") { try await catalog.write { try $0.update(Job.sample()) } }
      try await expectRefusal(.preconditionFailed, "the same id again") {
        try await catalog.write { try $0.insert(job) }
      }
    },
    Check("progress is overwritten alone, without a new revision") { catalog in
      let job = Job.sample(state: .running)
      let progress = JobProgress(done: 5, total: 10, rate: 2, eta: 3)
      try await catalog.write { transaction in
        try transaction.insert(job)
        try transaction.setProgress(JobProgress(done: 1, total: 10, eta: 9), of: job.id)
        try transaction.setProgress(progress, of: job.id)
      }
      var expected = job
      expected.progress = progress
      try expectEqual(try catalog.read { try $0.job(job.id) }, expected)
      try await expectRefusal(.notFound, "progress of none") {
        try await catalog.write { try $0.setProgress(progress, of: JobID()) }
      }
    },
    Check("jobs by state and kind, in pages") { catalog in
      let all = requests.flatMap { request in
        JobState.allCases.map { Job.sample(request, state: $0) }
      }.sorted { $0.id < $1.id }
      try await catalog.write { transaction in for job in all { try transaction.insert(job) } }
      let stateSets: [Set<JobState>?] = [nil, [], [.queued], [.queued, .running, .paused, .cancelling]]
      for states in stateSets {
        for kind in [nil, JobKind.backup, .rescan, .attach] {
          let expected = all.filter { job in
            (states?.contains(job.state) ?? true) && (kind == nil || job.request.kind == kind)
          }
          let filter = JobFilter(states: states, kind: kind)
          let pages = try everyPage(limit: 7) { page in try catalog.read { try $0.jobs(filter, page) } }
          try expectEqual(pages.flatMap(\.items), expected, "\(filter)")
        }
      }
    },
    Check("a log is kept in order and read in pages") { catalog in
      let job = Job.sample()
      let other = Job.sample()
      let entries = (1...12).map { sequence in
        JobLogEntry(
          sequence: sequence, at: ManualClock.epoch, level: JobLogEntry.Level.allCases[sequence % 3],
          message: "line \(sequence)\n")
      }
      try await catalog.write { transaction in
        try transaction.insert(job)
        try transaction.insert(other)
        for entry in entries { try transaction.append(entry, to: job.id) }
        try transaction.append(entries[0], to: other.id)
      }
      let pages = try everyPage(limit: 5) { page in try catalog.read { try $0.jobLog(job.id, page) } }
      try expectEqual(pages.flatMap(\.items), entries)
      try expectEqual(try catalog.read { try $0.jobLog(JobID(), PageRequest()).items }, [])
      try await expectRefusal(.preconditionFailed, "the same entry again") {
        try await catalog.write { try $0.append(entries[0], to: job.id) }
      }
      try await expectRefusal(.notFound, "a log of none") {
        try await catalog.write { try $0.append(entries[0], to: JobID()) }
      }
    },
  ]

  static let events: [Check] = [
    Check("event ids grow, and are never given twice") { catalog in
      let stored = try await catalog.write { transaction in try (0..<5).map { _ in try transaction.append(event()) } }
      try expect(zip(stored, stored.dropFirst()).allSatisfy { $0.id < $1.id }, "ids grow within a transaction")
      try expect((stored.first?.id ?? 0) > 0, "ids start above 0")
      try expectEqual(try catalog.read { try $0.events(after: 0, job: nil, limit: 100) }, stored)
      try await catalog.write { try $0.pruneEvents(keeping: 0) }
      try expectEqual(try catalog.read { try $0.eventSpan() }, nil)
      let next = try await catalog.write { try $0.append(event()) }
      try expect(next.id > (stored.last?.id ?? .max), "no id comes back after a prune")
    },
    Check("an event of every kind comes back as it was stored") { catalog in
      var payload = EventPayload(Job.sample())
      payload.waitingFor = "the image 'vm1'"
      for kind in Event.Kind.allCases {
        let told = Event(
          at: Date(timeIntervalSince1970: 1_767_225_600.5), kind: kind, subject: ULID(), job: JobID(),
          payload: payload)
        let stored = try await catalog.write { try $0.append(told) }
        var expected = told
        expected.id = stored.id
        try expectEqual(stored, expected)
        try expectEqual(try catalog.read { try $0.events(after: stored.id - 1, job: nil, limit: 1) }, [expected])
      }
    },
    Check("events are read behind an id, of one job if asked, up to the limit") { catalog in
      let job = JobID()
      let all = try await catalog.write { transaction in
        try (0..<10).map { try transaction.append(event(job: $0 % 3 == 0 ? job : nil)) }
      }
      let behind = try catalog.read { try $0.events(after: all[3].id, job: nil, limit: 4) }
      try expectEqual(behind, Array(all[4..<8]))
      try expectEqual(try catalog.read { try $0.events(after: all[0].id, job: job, limit: 2) }, [all[3], all[6]])
      try expectEqual(try catalog.read { try $0.events(after: all[9].id, job: nil, limit: 2) }, [])
    },
    Check("a prune keeps the newest events") { catalog in
      let all = try await catalog.write { transaction in try (0..<10).map { _ in try transaction.append(event()) } }
      try await catalog.write { try $0.pruneEvents(keeping: 20) }
      try expectEqual(try catalog.read { try $0.eventSpan() }, all[0].id...all[9].id)
      try await catalog.write { try $0.pruneEvents(keeping: 3) }
      try expectEqual(try catalog.read { try $0.eventSpan() }, all[7].id...all[9].id)
      try expectEqual(try catalog.read { try $0.events(after: 0, job: nil, limit: 100) }, Array(all[7...]))
    },
  ]

  static let guards: [Check] = [
    Check("an idempotency record is kept once, until it is too old") { catalog in
      let key = IdempotencyKey(who: "admin", route: "POST /api/v1/images", key: "k\u{1F511}")
      let record = IdempotencyRecord(
        key: key, bodyHash: "ab", answer: "{\"status\":201,\"body\":\"\u{1F511}\"}", createdAt: ManualClock.epoch)
      try await catalog.write { try $0.insert(record) }
      try expectEqual(try catalog.read { try $0.idempotencyRecord(key) }, record)
      for other in [
        IdempotencyKey(who: "other", route: key.route, key: key.key),
        IdempotencyKey(who: key.who, route: "POST /api/v1/backups", key: key.key),
        IdempotencyKey(who: key.who, route: key.route, key: "k"),
      ] {
        try expectEqual(try catalog.read { try $0.idempotencyRecord(other) }, nil)
      }
      try await expectRefusal(.idempotencyKeyInFlight, "the key again") {
        try await catalog.write { try $0.insert(record) }
      }
      try await catalog.write { try $0.deleteIdempotencyRecords(before: ManualClock.epoch) }
      try expectEqual(try catalog.read { try $0.idempotencyRecord(key) }, record, "one of that very time is kept")
      try await catalog.write { try $0.deleteIdempotencyRecords(before: ManualClock.epoch + 1) }
      try expectEqual(try catalog.read { try $0.idempotencyRecord(key) }, nil)
    }
  ]

  static let requests: [JobRequest] = [
    .backup(
      BackupJobRequest(
        images: [ImageID(), ImageID()], backups: [BackupID(), BackupID()], group: ULID(), repository: RepositoryID(),
        kind: .copy, compression: .zstd, speedLimit: .max)),
    .verify(backup: BackupID(), level: .checksum),
    .restore(backup: BackupID(), target: .newFile(path: "/images/back.raw", format: .raw)),
    .restore(backup: BackupID(), target: .image(ImageID())),
    .restore(backup: BackupID(), target: .nbd(uri: "nbd+unix:///x?socket=/run/x.sock", targetIsZero: true)),
    .deleteBackup(backup: BackupID()),
    .rescan(repository: RepositoryID()),
    .check(image: ImageID(), repairsLeaks: true),
    .attach(image: ImageID(), cache: .writeback),
    .attach(image: ImageID(), cache: nil),
    .detach(image: ImageID()),
    .verifyChain(chain: ChainID(), level: .metadata),
    .reconcile(image: ImageID()),
    .restoreGroup(
      group: ULID(), restores: [GroupRestore(image: ImageID(), backup: BackupID(), target: .image(ImageID()))]),
  ]

  private static func event(job: JobID? = nil) -> Event {
    Event(at: ManualClock.epoch, kind: .jobCreated, subject: ULID(), job: job)
  }
}
