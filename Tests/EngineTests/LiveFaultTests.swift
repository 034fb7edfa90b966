import BlockCore
import BlockTesting
import Foundation
import Model
import ModelTesting
import Testing

@testable import Engine

/// What goes wrong while a guest's image is backed up costs the backup, and neither the guest nor what comes after.
struct LiveFaultTests {
  /// Reads of the disk fail, or don't end, while it says so.
  private final class FlawedSource: GraphFilter, @unchecked Sendable {
    // Safe to hand over: confined to the test's loop.
    enum Flaw { case none, failing, stuck }

    var next: any BlockDevice
    var flaw = Flaw.none

    init(_ next: any BlockDevice) { self.next = next }

    func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
      flaw == .none ? try next.tryRead(into: &buffer, at: offset) : false
    }

    nonisolated(nonsending)
      func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError)
    {
      if flaw == .failing { throw BlockError(.io(errno: EIO), .read) }
      while flaw == .stuck { await Task.yield() }
      try await next.read(into: &buffer, at: offset)
    }

    nonisolated(nonsending)
      func change(
        _ kind: BlockChange, _ range: ByteRange,
        _ perform: nonisolated(nonsending) (ByteRange) async throws(BlockError) -> Void
      ) async throws(BlockError)
    { try await perform(range) }
  }

  private static func begin(_ guest: AttachedGuest, _ kind: RequestedBackupKind) async throws -> BackupID {
    let order = guest.order(kind)
    let beginning = try await guest.test.engine.begin(GroupOrder([order]), control: RecordingJobControl())
    guard case .begun = beginning[0] else { throw Tool.Failure(description: "\(beginning)") }
    return order.backup
  }

  private static func store(_ guest: AttachedGuest, _ backup: BackupID) async -> ProblemCode? {
    await code { _ = try await guest.test.engine.store(backup, control: RecordingJobControl()) }
  }

  /// The next increment has everything, by the bitmap.
  private static func expectSoundIncrement(_ guest: AttachedGuest, _ what: Comment) async throws {
    let order = guest.order(.incremental)
    let beginning = try await guest.test.engine.begin(GroupOrder([order]), control: RecordingJobControl())
    guard case .begun(let plan) = beginning[0] else { throw Tool.Failure(description: "\(beginning)") }
    #expect(plan.fallback == nil, "\(what): \(plan.reason)")
    let moment = guest.contents
    let receipt = try await guest.test.engine.store(order.backup, control: RecordingJobControl())
    let place = StoredBackupLocation(
      repository: guest.test.repository, image: order.image.id, chain: plan.chain, sequence: plan.sequence,
      backup: order.backup)
    try await LivePoint(place: place, plan: plan, receipt: receipt, moment: moment).expectRestored(guest.test, what)
    let graph = try guest.graph
    #expect(await graph.filters.count <= 1, what)
  }

  @Test(arguments: [true, false]) func oldBytesThatCannotBeReadCostTheBackup(_ isStuck: Bool) async throws {
    let quick = FleecingConfiguration(guestWriteTimeout: .milliseconds(100))
    try await withEngine(fleecing: quick) { test in
      let guest = try await AttachedGuest(test)
      #expect(await Self.store(guest, try await Self.begin(guest, .full)) == nil)
      let graph = try guest.graph
      let source = try await graph.loop.run {
        let source = FlawedSource(graph.slot.next)
        await graph.insert(source)
        return source
      }
      try await guest.write(3, at: 1 << 20, 4096)
      let backup = try await Self.begin(guest, .full)
      try await graph.loop.run { source.flaw = isStuck ? .stuck : .failing }
      // The guest's write needs the cluster's old bytes, and goes on without.
      let start = ContinuousClock.now
      try await guest.write(5, at: 1 << 20, 512)
      #expect(ContinuousClock.now - start < .seconds(30))
      try await graph.loop.run { source.flaw = .none }
      #expect(await Self.store(guest, backup) == .pointInTimeLost)
      try await Self.expectSoundIncrement(guest, "after a source that was \(isStuck ? "stuck" : "failing")")
    }
  }

  /// The temp's folder isn't one.
  @Test func aFolderForTempsThatCannotBeUsedIsFoundBeforeTheMoment() async throws {
    let nowhere = FleecingConfiguration(folder: "/dev/null/fleecing")
    try await withEngine(fleecing: nowhere) { test in
      let guest = try await AttachedGuest(test)
      let order = guest.order(.full)
      let beginning = try await test.engine.begin(GroupOrder([order]), control: RecordingJobControl())
      guard case .failed(let problem) = beginning[0] else { throw Tool.Failure(description: "it has begun") }
      #expect(problem.detail.contains("/dev/null/fleecing"), "\(problem)")
      let graph = try guest.graph
      #expect(await graph.filters.isEmpty)
      #expect(test.storedFiles.isEmpty)
      try await guest.detach()
    }
  }

  /// The repository goes away while it is written to.
  @Test func aTargetThatDiesLeavesTheTrackerAsItWas() async throws {
    try await withEngine { test in
      let guest = try await AttachedGuest(test)
      #expect(await Self.store(guest, try await Self.begin(guest, .full)) == nil)
      try await guest.write(3, at: 1 << 20, 4096)
      let backup = try await Self.begin(guest, .incremental)
      let aside = test.root + "/aside"
      try FileManager.default.moveItem(atPath: test.repositoryPath, toPath: aside)
      try await guest.write(4, at: 1 << 20, 4096)
      #expect(await Self.store(guest, backup) != nil)
      try? FileManager.default.removeItem(atPath: test.repositoryPath)
      try FileManager.default.moveItem(atPath: aside, toPath: test.repositoryPath)
      try await Self.expectSoundIncrement(guest, "after a target that died")
    }
  }

  /// Several at once: each has its own view, and what one keeps serves the others.
  @Test func severalBackupsOfOneImageAtDifferentMoments() async throws {
    try await withEngine { test in
      let guest = try await AttachedGuest(test)
      var moments: [(order: BackupOrder, moment: Data)] = []
      for number in 0..<3 {
        let order = guest.order(.copy)
        _ = try await test.engine.begin(GroupOrder([order]), control: RecordingJobControl())
        moments.append((order, guest.contents))
        try await guest.write(UInt8(10 + number), at: number << 20, 1 << 20)
      }
      let graph = try guest.graph
      #expect(await graph.filters.count == 1)
      for (order, moment) in [moments[1], moments[2], moments[0]] {
        let receipt = try await test.engine.store(order.backup, control: RecordingJobControl())
        let plan = BackupPlan(
          kind: .copy, chain: order.newChain, sequence: 0, parent: nil, reason: "a copy",
          pointInTime: receipt.pointInTime)
        try await LivePoint(place: test.place(order), plan: plan, receipt: receipt, moment: moment)
          .expectRestored(test, "one of three")
      }
      #expect(await graph.filters.isEmpty)
    }
  }

  /// A tracker's bitmap that clients of an export see isn't taken from them: later backups go on from it.
  @Test func aBitmapThatAnExportShowsStays() async throws {
    try await withEngine { test in
      let guest = try await AttachedGuest(test)
      #expect(await Self.store(guest, try await Self.begin(guest, .full)) == nil)
      let image = BitmapImage(id: guest.record.id, name: "vm", location: guest.location)
      let name = try #require(try await test.engine.bitmaps(of: image, after: nil, limit: 9).first?.name)
      let export = test.order(
        "vm", .attachedImage(guest.record.id), isReadOnly: false,
        bitmaps: [ExportedBitmap(bitmap: name, exportName: "changes")])
      try await test.engine.export(export)
      for number in 0..<2 {
        try await guest.write(7, at: number << 20, 4096)
        try await Self.expectSoundIncrement(guest, "increment \(number)")
        #expect(try await test.engine.bitmaps(of: image, after: nil, limit: 9).map(\.name) == [name])
      }
      try await test.engine.withdraw(export.export, .hard)
      try await Self.expectSoundIncrement(guest, "once it isn't shown")
      #expect(try await test.engine.bitmaps(of: image, after: nil, limit: 9).first?.name != name)
    }
  }

  /// A server that stops while a backup waits for its job closes the image all the same.
  @Test func aStopEndsWhatIsHeld() async throws {
    try await withEngine { test in
      let guest = try await AttachedGuest(test)
      _ = try await Self.begin(guest, .full)
      try await guest.write(1, at: 0, 4096)
      await test.engine.shutDown()
      try Tool.judge("check", "-q", "-f", "qcow2", guest.location.source.place)
      #expect(test.engine.attachedImages.open.isEmpty)
    }
  }

  /// An overlay is backed up as what its guest sees, although it can carry no tracker.
  @Test func anAttachedOverlayIsComparedByHash() async throws {
    try await withEngine { test in
      let base = try test.makeQcow2("base")
      let path = test.images + "/overlay.qcow2"
      try Tool.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base.source.place, "-F", "qcow2", path)
      let guest = try await AttachedGuest(test, at: ImageLocation(source: .file(path: path), format: .qcow2))
      for (number, kind) in [RequestedBackupKind.full, .incremental].enumerated() {
        try await guest.write(7, at: number << 20, 100_000)
        let order = guest.order(kind)
        let beginning = try await test.engine.begin(GroupOrder([order]), control: RecordingJobControl())
        guard case .begun(let plan) = beginning[0] else { throw Tool.Failure(description: "\(beginning)") }
        let moment = guest.contents
        try await guest.write(8, at: 0, 1 << 20)
        let receipt = try await test.engine.store(order.backup, control: RecordingJobControl())
        #expect(plan.fallback?.reason == (kind == .full ? nil : .bitmapMissing))
        let place = StoredBackupLocation(
          repository: test.repository, image: order.image.id, chain: plan.chain, sequence: plan.sequence,
          backup: order.backup)
        try await LivePoint(place: place, plan: plan, receipt: receipt, moment: moment).expectRestored(
          test, "an overlay")
      }
    }
  }
}
