import BlockCore
import BlockTesting
import Foundation
import Model
import ModelTesting
import Testing

@testable import Engine

/// What readers of fleecings are told of changes, and the checkpoints that their successes set.
struct FleecingIncrementTests {
  private static let external = Fleecing.standardTracker

  /// Where a client is told of changes.
  private static func dirty(_ order: FleecingOrder, _ test: TestEngine) async throws -> [Range<Int>] {
    struct Item: Decodable {
      let offset: Int
      let length: Int
      let type: Int
    }
    let text = try await Tool.runAside(
      "nbdinfo", ["--json", "--map=qemu:dirty-bitmap:changed", test.uri(order)])
    return try JSONDecoder().decode([Item].self, from: Data(text.utf8)).filter { $0.type == 1 }
      .map { $0.offset..<$0.offset + $0.length }
  }

  /// A full copy, brought up to date by what a view calls dirty, is the disk of the view's moment.
  private static func bringUp(_ copy: inout Data, to order: FleecingOrder, _ test: TestEngine) async throws {
    let dirty = try await dirty(order, test)
    let target = test.root + "/parts-\(ULID()).raw"
    for range in dirty {
      try await Tool.runAside(
        "qemu-img",
        [
          "convert", "--image-opts", "-O", "raw",
          "driver=raw,offset=\(range.lowerBound),size=\(range.count),file.driver=nbd,file.server.type=unix,"
            + "file.server.path=\(test.socket("fleece")),file.export=\(order.parts[0].exportName)", target,
        ])
      copy.replaceSubrange(range, with: try SampleImage.bytes(target))
    }
  }

  private static func base(_ order: FleecingOrder, _ receipt: FleecingReceipt, _ guest: AttachedGuest) throws
    -> FleecingOrder.Base
  {
    let tracked = try #require(receipt.parts[guest.record.id]?.tracked)
    return .checkpoint(order.checkpoint, of: order.tracker, .known(tracked))
  }

  /// A chain of increments: after a success each counts from the one before; after a failure, or an end, from the last that
  /// succeeded. Every copy is the disk of its moment, whether the image was detached in between or not.
  @Test(.eachToolVersion, arguments: [Fleecing.Access.all, .dirty])
  func eachIncrementHoldsWhatChangedSinceTheLastSuccess(_ access: Fleecing.Access) async throws {
    try await withEngine { test in
      let guest = try await AttachedGuest(test)
      var random = SeededRandom(seed: 21)
      let full = test.fleecing([guest])
      var base = try Self.base(full, try await test.begin(full), guest)
      var copy = try await test.copied(full)
      try await guest.change(6, using: &random)
      try await test.engine.finish(full.fleecing)
      for (index, succeeds) in [true, false, true, false, true].enumerated() {
        if index == 2 {
          try await guest.detach()
          try await guest.attach()
        }
        try await guest.change(4, using: &random)
        let order = test.fleecing([guest], access: access, since: base)
        let receipt = try await test.begin(order)
        let moment = guest.contents
        // What changes from now on is no part of it, and of the next one.
        try await guest.change(4, using: &random)
        var updated = copy
        try await Self.bringUp(&updated, to: order, test)
        #expect(updated == moment, "increment \(index)")
        let dirty = try #require(receipt.parts[guest.record.id]?.dirtyBytes)
        #expect(dirty > 0 && dirty < UInt64(moment.count))
        if succeeds {
          try await test.engine.finish(order.fleecing)
          (base, copy) = (try Self.base(order, receipt, guest), updated)
        } else {
          await test.engine.end(order.fleecing)
        }
      }
      try await guest.detach()
      try Tool.judge("check", "-q", "-f", "qcow2", guest.location.source.place)
    }
  }

  /// An image at rest, qcow2 or raw, has its checkpoint set when its reader has finished.
  @Test(arguments: [DiskFormat.qcow2, .raw])
  func imagesAtRestAreTrackedToo(_ format: DiskFormat) async throws {
    try await withEngine { test in
      let guest = try await AttachedGuest(test, format: format)
      try await guest.detach()
      let full = test.fleecing([guest])
      let base = try Self.base(full, try await test.begin(full), guest)
      try await test.engine.finish(full.fleecing)
      try await guest.attach()
      try await guest.write(7, at: 1 << 20, 4096)
      try await guest.detach()
      let order = test.fleecing([guest], access: .dirty, since: base)
      try await test.begin(order)
      let dirty = try await Self.dirty(order, test)
      #expect(dirty.contains { $0.contains(1 << 20) } && dirty.reduce(0) { $0 + $1.count } <= 5 * 4096)
      await test.engine.end(order.fleecing)
    }
  }

  /// With `dirty` nothing else can be read, to the byte, and nothing else is kept.
  @Test(.eachToolVersion) func onlyWhatIsDirtyMayBeReadIfAsked() async throws {
    try await withEngine { test in
      let guest = try await AttachedGuest(test)
      let full = test.fleecing([guest])
      let base = try Self.base(full, try await test.begin(full), guest)
      try await test.engine.finish(full.fleecing)
      try await guest.write(5, at: 1 << 20, 65536)
      let order = test.fleecing([guest], access: .dirty, since: base)
      try await test.begin(order)
      let dirty = try await Self.dirty(order, test)
      let marks = Set(try #require(dirty.isEmpty ? nil : dirty).map { $0.lowerBound >> 16 }).union([16])
      try await Tool.runAside("qemu-io", ["-r", "-f", "raw", "-c", "read -P 5 1M 64k", test.uri(order)])
      for command in ["read 1M 68k", "read 1020k 8k"] where !marks.contains(15) && !marks.contains(17) {
        let said = try await Tool.runAside(
          "qemu-io", ["-r", "-f", "raw", "-c", command, test.uri(order)], expecting: [1])
        #expect(said.contains("Operation not permitted"), "\(said)")
      }
      for cluster in 0..<guest.contents.count >> 16 where !marks.contains(cluster) {
        try await guest.write(9, at: cluster << 16, 4096)
      }
      #expect(await test.activity(order)?.keptBytes == 0)
      await test.engine.end(order.fleecing)
      try await guest.detach()
    }
  }

  /// A person's bitmap is shown as of the moment, and stays as it is.
  @Test func changesSinceABitmapAreThoseOfTheMoment() async throws {
    try await withEngine { test in
      let guest = try await AttachedGuest(test)
      let image = BitmapImage(id: guest.record.id, name: guest.record.name, location: guest.location)
      _ = try await test.engine.change(
        BitmapOrder([
          BitmapOrder.Action(
            image: image, bitmap: BitmapName("b0"), .add(granularity: 65536, isRecording: true, isPersistent: true))
        ]))
      try await guest.write(3, at: 0, 4096)
      let order = test.fleecing([guest], since: .bitmap(BitmapName("b0")))
      try await test.begin(order)
      try await guest.write(4, at: 2 << 20, 4096)
      #expect(try await Self.dirty(order, test) == [0..<65536])
      try await test.engine.finish(order.fleecing)
      let record = try await test.engine.bitmap(BitmapName("b0"), of: image)
      #expect(record.dirtyBytes == 2 * 65536)
      let missing = test.fleecing([guest], since: .bitmap(BitmapName("b1")))
      #expect(await code { try await test.begin(missing) } == .notFound)
      #expect(test.engine.fleecings.isEmpty)
      try await guest.detach()
    }
  }

  /// The newest backup of a line is a base, and its line goes on untouched.
  @Test func changesSinceABackupAreTold() async throws {
    try await withEngine(sampledCheck: 0) { test in
      let guest = try await AttachedGuest(test)
      let order = guest.order(.full)
      let receipt = try await test.engine.backUp(order, control: RecordingJobControl())
      let checkpoint = try #require(receipt.checkpoint)
      let base = FleecingOrder.Base.checkpoint(checkpoint, of: order.tracker, .ofBackup(test.place(order)))
      try await guest.write(3, at: 1 << 20, 4096)
      let fleecing = test.fleecing([guest], since: base)
      let begun = try await test.begin(fleecing)
      #expect(try await Self.dirty(fleecing, test).contains { $0.contains(1 << 20) })
      #expect(begun.parts[guest.record.id]?.dirtyBytes ?? 0 <= 5 * 4096)
      try await test.engine.finish(fleecing.fleecing)
      let next = guest.order(.incremental)
      let beginning = try await test.engine.begin(GroupOrder([next]), control: RecordingJobControl())
      guard case .begun(let plan) = beginning[0] else { throw Tool.Failure(description: "\(beginning)") }
      #expect(plan.fallback == nil, "\(plan.reason)")
      await test.engine.abandon([next.backup])
      try await guest.detach()
    }
  }

  /// A bitmap that counts from another moment, or was cleared, tells nothing.
  @Test func whatNoBitmapCountsFromIsRefused() async throws {
    try await withEngine { test in
      let guest = try await AttachedGuest(test)
      let first = test.fleecing([guest])
      let base = try Self.base(first, try await test.begin(first), guest)
      try await test.engine.finish(first.fleecing)
      let second = test.fleecing([guest])
      let newer = try Self.base(second, try await test.begin(second), guest)
      try await test.engine.finish(second.fleecing)
      #expect(await code { try await test.begin(test.fleecing([guest], since: base)) } == .trackingLost)
      try await guest.detach()
      let name = String(
        decoding: TrackerBitmapName(tracker: Self.external, checkpoint: second.checkpoint).bytes, as: UTF8.self)
      try Tool.run("qemu-img", "bitmap", "--clear", "-f", "qcow2", guest.location.source.place, name)
      #expect(await code { try await test.begin(test.fleecing([guest], since: newer)) } == .trackingLost)
      #expect(test.engine.fleecings.isEmpty)
      try await guest.attach()
      try await guest.detach()
    }
  }

  /// A moment that was lost sets no checkpoint, however late that is found.
  @Test func aLossBeforeTheFinishSetsNothing() async throws {
    let little = FleecingConfiguration(tempByteCount: 0, memoryByteCount: 1 << 20)
    try await withEngine(fleecing: little) { test in
      let guest = try await AttachedGuest(test)
      let first = test.fleecing([guest])
      let base = try Self.base(first, try await test.begin(first), guest)
      try await test.engine.finish(first.fleecing)
      let second = test.fleecing([guest])
      try await test.begin(second)
      try await guest.write(9, at: 0, 3 << 20)
      #expect(await code { try await test.engine.finish(second.fleecing) } == .pointInTimeLost)
      #expect(test.engine.fleecings.isEmpty)
      let third = test.fleecing([guest], access: .dirty, since: base)
      try await test.begin(third)
      #expect(try await Self.dirty(third, test).reduce(0) { $0 + $1.count } >= 3 << 20)
      try await test.engine.finish(third.fleecing)
      try await guest.detach()
    }
  }
}
