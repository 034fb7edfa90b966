import BlockCore
import BlockTesting
import Foundation
import Locks
import Model
import ModelTesting
import Testing

@testable import Engine

/// Backups of images that a guest goes on writing to.
struct LiveBackupTests {
  private static let seeds: Range<UInt64> = {
    let effort = ProcessInfo.processInfo.environment["TEST_EFFORT"].flatMap(UInt64.init) ?? 1
    return 0..<2 * effort
  }()

  /// Backs up the guest's image while the guest writes from the moment on.
  private static func backUp(
    _ guest: AttachedGuest, _ kind: RequestedBackupKind, _ compression: Compression = .zstd, seed: UInt64,
    control: RecordingJobControl = RecordingJobControl()
  ) async throws -> LivePoint {
    let (test, order) = (guest.test, guest.order(kind, compression))
    let beginning = try await test.engine.begin(GroupOrder([order]), control: control)
    guard case .begun(let plan) = beginning[0] else { throw Tool.Failure(description: "\(beginning)") }
    let moment = guest.contents
    let receipt = try await guest.writing(seed: seed) { try await test.engine.store(order.backup, control: control) }
    let place = StoredBackupLocation(
      repository: test.repository, image: order.image.id, chain: plan.chain, sequence: plan.sequence,
      backup: order.backup)
    return LivePoint(place: place, plan: plan, receipt: receipt, moment: moment)
  }

  @Test(arguments: [DiskFormat.qcow2, .raw], [Compression.zstd, .none])
  func aBackupHoldsItsMomentWhateverTheGuestWritesMeanwhile(_ format: DiskFormat, _ compression: Compression)
    async throws
  {
    try await withEngine { test in
      let guest = try await AttachedGuest(test, format: format)
      var random = SeededRandom(seed: 3)
      try await guest.change(10, using: &random)
      var points: [LivePoint] = []
      for (index, kind) in [RequestedBackupKind.full, .incremental, .copy, .incremental, .differential].enumerated() {
        let point = try await Self.backUp(guest, kind, compression, seed: UInt64(index))
        #expect(point.receipt.consistency == .crash && point.receipt.virtualSize == UInt64(point.moment.count))
        if kind != .full, kind != .copy {
          #expect(point.plan.fallback == (format == .raw ? .init(to: .hash, reason: .bitmapMissing) : nil), "\(index)")
        }
        points.append(point)
      }
      for (index, point) in points.enumerated() { try await point.expectRestored(test, "backup \(index)") }
      let graph = try guest.graph
      #expect(await graph.filters.isEmpty, "the guest's writes pass nothing more")
      try await guest.detach()
      if format == .qcow2 { try Tool.judge("check", "-q", "-f", "qcow2", guest.location.source.place) }
      #expect(TestEngine.files(beneath: test.root + "/fleecing").isEmpty)
    }
  }

  /// Only what the bitmap tells is read and kept: the rest of the disk costs the guest nothing.
  @Test func anIncrementCopiesNothingAsideOfWhatDidNotChange() async throws {
    try await withEngine(sampledCheck: 0) { test in
      let guest = try await AttachedGuest(test)
      _ = try await Self.backUp(guest, .full, seed: 1)
      _ = try await Self.backUp(guest, .incremental, seed: 2)
      try await guest.detach()
      try await guest.attach()
      let quiet = guest.order(.incremental)
      _ = try await test.engine.begin(GroupOrder([quiet]), control: RecordingJobControl())
      _ = try await test.engine.store(quiet.backup, control: RecordingJobControl())
      try await guest.write(7, at: 1 << 20, 4096)
      let order = guest.order(.incremental)
      _ = try await test.engine.begin(GroupOrder([order]), control: RecordingJobControl())
      let begun = try #require(test.engine.begunBackups.take(order.backup))
      test.engine.begunBackups.put(begun)
      guard case .attached(let point) = begun.image else { throw Tool.Failure(description: "it isn't attached") }
      let marks = Set((begun.changes.map { Array($0.dirtyRanges) } ?? []).map { $0.offset >> 16 })
      for cluster in 0..<UInt64(guest.contents.count >> 16) where !marks.contains(cluster) {
        try await guest.write(9, at: Int(cluster) << 16, 512)
      }
      let before = try await begun.loop.run { try #require(point.view).report.copyCount }
      #expect(before == 0)
      try await guest.write(9, at: 1 << 20, 512)
      let after = try await begun.loop.run { try #require(point.view).report.copyCount }
      #expect(after == 1)
      _ = try await test.engine.store(order.backup, control: RecordingJobControl())
    }
  }

  /// What comes after a backup that failed has all that changed before it.
  @Test func aBackupThatIsGivenUpCostsTheNextOneNothing() async throws {
    try await withEngine { test in
      let guest = try await AttachedGuest(test)
      _ = try await Self.backUp(guest, .full, seed: 1)
      for seed in 2..<5 {
        try await guest.write(UInt8(seed), at: seed << 18, 8192)
        let order = guest.order(.incremental)
        _ = try await test.engine.begin(GroupOrder([order]), control: RecordingJobControl())
        try await guest.write(UInt8(seed), at: (seed << 18) + (1 << 16), 8192)
        await test.engine.abandon([order.backup])
      }
      let graph = try guest.graph
      #expect(await graph.filters.isEmpty)
      let point = try await Self.backUp(guest, .incremental, seed: 9)
      #expect(point.plan.fallback == nil, "\(point.plan.reason)")
      try await point.expectRestored(test, "after three that came to nothing")
      let live = try await graph.loop.run { try #require(graph.bitmaps).set.bitmaps.map(\.isPersistent) }
      #expect(live == [true], "one bitmap, and it is in the file")
    }
  }

  /// Nothing is kept where there is no room: the backup fails with that reason, the guest notices nothing.
  @Test func theGuestGoesOnWhereThereIsNoRoomForOldBytes() async throws {
    let nothing = FleecingConfiguration(folder: nil, memoryByteCount: 1 << 16)
    try await withEngine(fleecing: nothing) { test in
      let guest = try await AttachedGuest(test)
      _ = try await Self.backUp(guest, .full, seed: 1)
      let order = guest.order(.full)
      let control = RecordingJobControl()
      _ = try await test.engine.begin(GroupOrder([order]), control: control)
      for cluster in 0..<8 { try await guest.write(5, at: cluster << 16, 512) }
      let lost = await code { _ = try await test.engine.store(order.backup, control: control) }
      #expect(lost == .pointInTimeLost)
      #expect(control.messages.contains { $0.message.contains("there was no room left") }, "\(control.messages)")
      let graph = try guest.graph
      #expect(await graph.filters.isEmpty)
      #expect(test.storedFiles.count { $0.hasSuffix(".part") } == 0)
    }
  }

  /// The image can't be taken away while it is backed up, and can afterwards. A killed backup leaves it to be closed.
  @Test func anImageThatIsBackedUpIsNotDetached() async throws {
    try await withEngine { test in
      let guest = try await AttachedGuest(test)
      let order = guest.order(.full)
      _ = try await test.engine.begin(GroupOrder([order]), control: RecordingJobControl())
      let refusal = await #expect(throws: DomainError.self) { try await guest.detach() }
      #expect(refusal?.code == .imageInUse && refusal?.detail.contains("backup job") == true)
      await test.engine.abandon([order.backup])
      try await guest.detach()
    }
  }

  /// Several images, attached and at rest, at one moment: a guest that writes to one and then to the other has at no
  /// moment written more to the second.
  @Test func severalImagesAreOfOneMoment() async throws {
    try await withEngine { test in
      let (first, second) = (try await AttachedGuest(test, "vm1"), try await AttachedGuest(test, "vm2"))
      let resting = test.record("vm3", try test.makeQcow2("vm3").source.place, .qcow2)
      let isOver = Lock(false)
      let writer = Task {
        for count in 1...UInt8.max where !isOver.withLock({ $0 }) {
          for guest in [first, second] { try await guest.write(count, at: 4096, 512) }
          try await Task.sleep(for: AttachedGuest.pause)
        }
      }
      for _ in 0..<5 {
        let orders = [first.order(.auto), second.order(.auto), test.order(resting, .zstd, kind: .auto)]
        let beginnings = try await test.engine.begin(GroupOrder(orders), control: RecordingJobControl())
        var counts: [UInt8] = []
        for (order, beginning) in zip(orders, beginnings) {
          guard case .begun(let plan) = beginning else { throw Tool.Failure(description: "\(beginning)") }
          _ = try await test.engine.store(order.backup, control: RecordingJobControl())
          let target = test.images + "/restored-\(order.backup)"
          let place = StoredBackupLocation(
            repository: test.repository, image: order.image.id, chain: plan.chain, sequence: plan.sequence,
            backup: order.backup)
          try await test.restore(place, to: target, .raw)
          counts.append(try SampleImage.bytes(target)[4096])
        }
        #expect(counts[0] == counts[1] || counts[0] == counts[1] &+ 1, "\(counts)")
      }
      isOver.withLock { $0 = true }
      try await writer.value
    }
  }

  /// Random stories: what a guest and others write, live backups of all kinds, some given up, and every one is restored.
  @Test(arguments: seeds) func story(_ seed: UInt64) async throws {
    try await withEngine(sampledCheck: 1) { test in
      var random = SeededRandom(seed: seed)
      let guest = try await AttachedGuest(test)
      var points = [try await Self.backUp(guest, .full, seed: seed)]
      for step in 0..<8 {
        try await guest.change(.random(in: 0..<6, using: &random), using: &random)
        switch Int.random(in: 0..<5, using: &random) {
        case 0:
          try await guest.detach()
          if Bool.random(using: &random) {
            try guest.writeBeside(77, at: .random(in: 0..<60, using: &random) << 16, 512)
          }
          try await guest.attach()
        case 1:
          let order = guest.order(.auto)
          _ = try await test.engine.begin(GroupOrder([order]), control: RecordingJobControl())
          try await guest.change(3, using: &random)
          await test.engine.abandon([order.backup])
        default:
          let kind = try #require(
            [RequestedBackupKind.incremental, .incremental, .differential, .full, .copy].randomElement(using: &random))
          let compression = try #require(Compression.allCases.randomElement(using: &random))
          let point = try await Self.backUp(guest, kind, compression, seed: seed * 100 + UInt64(step))
          #expect(point.plan.fallback == nil, "seed \(seed), step \(step): \(point.plan.reason)")
          points.append(point)
        }
      }
      for (index, point) in points.enumerated() {
        try await point.expectRestored(test, "seed \(seed), backup \(index)")
      }
    }
  }
}
