import Engine
import EventLoops
import Foundation
import Locks
import Model
import ModelTesting
import Repositories
import Testing

/// Two servers and one repository: at most one writes below an image's folder.
struct LeaseTests {
  /// Where a test waits for a lease's time to go by. Elsewhere the standard one holds: a busy machine may keep a beat
  /// back for longer than a short lease lives.
  private static let short = LeaseTiming(duration: .seconds(3))

  private func withSource(
    lease: LeaseTiming = LeaseTiming(), _ body: (TestEngine, ImageRecord) async throws -> Void
  ) async throws {
    try await withEngine(lease: lease) { test in
      let source = test.images + "/vm.raw"
      try SampleImage.raw(at: source, byteCount: 1 << 20, seed: 31)
      try await body(test, test.record("vm", source, .raw))
    }
  }

  private func leasePath(_ test: TestEngine, _ image: ImageRecord) -> String {
    test.repositoryPath + "/" + RepositoryPath.lease(image.id)
  }

  /// Leaves a lease as another host's server would that has it.
  private func plant(_ record: LeaseRecord, _ test: TestEngine, _ image: ImageRecord) throws {
    let path = leasePath(test, image)
    try FileManager.default.createDirectory(
      atPath: test.repositoryPath + "/leases", withIntermediateDirectories: true)
    try Data(try record.encoded()).write(to: URL(fileURLWithPath: path))
  }

  @Test func liveServerOnThisHostKeepsOthersOut() async throws {
    try await withSource(lease: Self.short) { test, image in
      let other = try await TestEngine(root: test.root, lease: Self.short, repository: test.repository)
      let control = RecordingJobControl()
      control.pause()
      let order = test.order(image)
      async let first = test.engine.backUp(order, control: control)
      for _ in 0..<6000 where control.checkpoints == 0 { try await Task.sleep(for: .milliseconds(10)) }
      let error = await #expect(throws: DomainError.self) { try await other.backUp(image) }
      #expect(error?.code == .repositoryLeased)
      // Its beats keep the lease alive for longer than its time.
      try await Task.sleep(for: Self.short.duration + .milliseconds(500))
      control.resume()
      _ = try await first
      _ = try await other.backUp(image)
      #expect(try await test.engine.scan(test.repository).backups.count == 2)
    }
  }

  @Test func jobsOfOneServerShareTheLease() async throws {
    try await withSource { test, image in
      try await withThrowingTaskGroup(of: Void.self) { group in
        for _ in 0..<4 { group.addTask { _ = try await test.backUp(image) } }
        try await group.waitForAll()
      }
      #expect(try await test.engine.scan(test.repository).backups.count == 4)
    }
  }

  @Test func silentLeaseIsTakenOverWithAHigherEpochWhenItsTimeIsUp() async throws {
    try await withSource { test, image in
      try plant(
        LeaseRecord(epoch: 7, writer: ULID(), session: ULID(), beat: 3, isHeld: true, leaseMilliseconds: 300), test,
        image)
      let control = RecordingJobControl()
      let start = ContinuousClock.now
      _ = try await test.backUp(image, control: control)
      #expect(ContinuousClock.now - start > .milliseconds(300))
      #expect(control.messages.contains { $0.message.contains("waiting") })
      let left = try LeaseRecord.decode(Array(try SampleImage.bytes(leasePath(test, image))))
      #expect(left.epoch == 8)
      #expect(left.isHeld == false)
    }
  }

  @Test func beatingLeaseIsRespected() async throws {
    try await withSource { test, image in
      let record = LeaseRecord(
        epoch: 1, writer: ULID(), session: ULID(), beat: 0, isHeld: true, leaseMilliseconds: 3000)
      try plant(record, test, image)
      // On a thread of its own: Swift's pool may be busy with other tests for longer than the lease lives.
      let isOver = Lock(false)
      Thread.detachNewThread { [record, path = leasePath(test, image)] in
        var record = record
        guard let file = try? FileHandle(forUpdating: URL(fileURLWithPath: path)) else { return }
        while !isOver.withLock({ $0 }) {
          record.beat += 1
          try? file.seek(toOffset: 0)
          if let bytes = try? record.encoded() { try? file.write(contentsOf: Data(bytes)) }
          Thread.sleep(forTimeInterval: 0.02)
        }
      }
      let error = await #expect(throws: DomainError.self) { try await test.backUp(image) }
      #expect(error?.code == .repositoryLeased)
      isOver.withLock { $0 = true }
      #expect(test.storedFiles == [])
    }
  }

  @Test func ownLeaseOfAnEarlierLifeIsTakenAtOnce() async throws {
    try await withSource { test, image in
      try plant(
        LeaseRecord(epoch: 3, writer: test.writer, session: ULID(), beat: 9, isHeld: true, leaseMilliseconds: 60_000),
        test, image)
      _ = try await test.backUp(image)
      #expect(try LeaseRecord.decode(Array(try SampleImage.bytes(leasePath(test, image)))).epoch == 4)
    }
  }

  @Test func lostLeaseKeepsTheBackupFromBeingPublished() async throws {
    // The standard one is so long that no beat falls between: a beat that has just looked would write over the other's
    // record.
    try await withSource { test, image in
      let control = RecordingJobControl()
      control.pause()
      let order = test.order(image)
      async let first = test.engine.backUp(order, control: control)
      try await eventually(within: 60, "the copy is held up with the lease in its hand") {
        let lease = try? LeaseRecord.decode(Array(try SampleImage.bytes(leasePath(test, image))))
        return control.checkpoints > 0 && lease?.isHeld == true
      }
      // As if another host had taken it over.
      let theirs = LeaseRecord(
        epoch: 99, writer: ULID(), session: ULID(), beat: 1, isHeld: true, leaseMilliseconds: 60_000)
      let file = try FileHandle(forUpdating: URL(fileURLWithPath: leasePath(test, image)))
      try file.write(contentsOf: Data(try theirs.encoded()))
      try file.close()
      control.resume()
      do {
        _ = try await first
        Issue.record("the backup was published without the lease")
      } catch let error as DomainError {
        #expect(error.code == .repositoryLeased, "\(error)")
      }
      #expect(test.storedFiles == [])
      // The other's record stays as it is.
      #expect(try LeaseRecord.decode(Array(try SampleImage.bytes(leasePath(test, image)))).session == theirs.session)
    }
  }
}
