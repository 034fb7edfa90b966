import BlockCore
import BlockTesting
import EventLoops
import Foundation
import Locks
import Model
import ModelTesting
import Testing

@testable import Engine

/// What NBD clients see of images at one moment, while their guests go on.
struct FleecingTests {
  @Test(.eachToolVersion, arguments: TestEngine.backends, [DiskFormat.qcow2, .raw])
  func aViewShowsItsMomentWhateverTheGuestWritesMeanwhile(_ backend: IOBackend, _ format: DiskFormat) async throws {
    try await withEngine(backend: backend) { test in
      let guest = try await AttachedGuest(test, format: format)
      let order = test.fleecing([guest])
      try await test.begin(order)
      let moment = guest.contents
      let copied = try await guest.writing(seed: 4) { try await test.copied(order) }
      #expect(copied == moment)
      #expect(try await Tool.runAside("nbdinfo", ["--size", test.uri(order)]) == "\(moment.count)\n")
      try await Tool.runAside("qemu-io", ["-f", "raw", "-c", "write 0 1", test.uri(order)], expecting: [1])
      let activity = try #require(await test.activity(order))
      #expect(activity.reads.bytes > 0 && activity.keptBytes <= activity.keptHighWater)
      await test.engine.end(order.fleecing)
      let after = await test.engine.activity(of: order.fleecing)
      #expect(test.engine.fleecings.isEmpty && after == nil)
      let graph = try guest.graph
      #expect(await graph.filters.isEmpty, "the guest's writes pass nothing more")
      try await guest.detach()
    }
  }

  /// Several views of one image, each of its own moment, beside one of another image.
  @Test func viewsOfDifferentMomentsStandSideBySide() async throws {
    try await withEngine { test in
      let guests = [try await AttachedGuest(test, "a"), try await AttachedGuest(test, "b")]
      var random = SeededRandom(seed: 9)
      var views: [(order: FleecingOrder, moments: [Data])] = []
      for count in [1, 2, 1, 2] {
        let order = test.fleecing(Array(guests[..<count]))
        try await test.begin(order)
        views.append((order, guests[..<count].map(\.contents)))
        for guest in guests { try await guest.change(12, using: &random) }
      }
      for index in [2, 0, 3, 1] {
        let (order, moments) = views[index]
        for (part, moment) in moments.enumerated() { #expect(try await test.copied(order, part: part) == moment) }
        await test.engine.end(order.fleecing)
        for guest in guests { try await guest.change(4, using: &random) }
      }
      for guest in guests {
        let graph = try guest.graph
        #expect(await graph.filters.isEmpty)
        try await guest.detach()
      }
    }
  }

  @Test(.eachToolVersion) func anImageAtRestIsHeldAsItLies() async throws {
    try await withEngine { test in
      let guest = try await AttachedGuest(test)
      try await guest.detach()
      let order = test.fleecing([guest], release: .trim)
      try await test.begin(order)
      #expect(await code { try await guest.attach() } == .imageLocked)
      try await Tool.runAside(
        "qemu-io", ["-f", "qcow2", "-c", "write 0 64k", guest.location.source.place], expecting: [1])
      #expect(try await test.copied(order) == guest.contents)
      await test.engine.end(order.fleecing)
      try await guest.attach()
      try await guest.detach()
    }
  }

  /// A reader that is done with a part, by a call or by TRIM, has what is kept of it freed.
  @Test(.eachToolVersion, arguments: [Fleecing.Release.none, .trim])
  func whatAReaderIsDoneWithIsFreed(_ release: Fleecing.Release) async throws {
    try await withEngine { test in
      let guest = try await AttachedGuest(test)
      let order = test.fleecing([guest], release: release)
      try await test.begin(order)
      let moment = guest.contents
      try await guest.write(9, at: 0, 2 << 20)
      let kept = try #require(await test.activity(order))
      #expect(kept.keptBytes >= 1 << 20 && kept.keptBytes == kept.keptHighWater)
      let info = try await Tool.runAside("nbdinfo", ["--json", test.uri(order)])
      #expect(info.contains("\"is_read_only\": \(release == .none)"))
      switch release {
      case .none:
        try await test.engine.release(
          [FleecedExtent(offset: 0, length: 2 << 20)], of: guest.record.id, in: order.fleecing)
      case .trim:
        try await Tool.runAside("qemu-io", ["-f", "raw", "-d", "unmap", "-c", "discard 0 2M", test.uri(order)])
        for command in ["write 3M 64k", "write -z 3M 64k"] {
          let said = try await Tool.runAside("qemu-io", ["-f", "raw", "-c", command, test.uri(order)], expecting: [1])
          #expect(said.contains("Operation not permitted"), "\(said)")
        }
      }
      let freed = try #require(await test.activity(order))
      #expect(freed.keptBytes == 0 && freed.keptHighWater == kept.keptHighWater)
      let said = try await Tool.runAside(
        "qemu-io", ["-r", "-f", "raw", "-c", "read 0 64k", test.uri(order)], expecting: [1])
      #expect(said.contains("Operation not permitted"), "\(said)")
      // The rest is as it was, and writes to what was released are free.
      try await guest.write(8, at: 0, 2 << 20)
      #expect(await test.activity(order)?.keptBytes == 0)
      let rest = test.root + "/rest.raw"
      try await Tool.runAside(
        "qemu-img",
        [
          "convert", "--image-opts", "-O", "raw",
          "driver=raw,offset=2097152,size=2097152,file.driver=nbd,file.server.type=unix,"
            + "file.server.path=\(test.socket("fleece")),file.export=\(order.parts[0].exportName)", rest,
        ])
      #expect(try SampleImage.bytes(rest) == moment[(2 << 20)...])
      await test.engine.end(order.fleecing)
      try await guest.detach()
    }
  }

  /// A client that comes back after the end gets an error, and no other moment.
  @Test func whatHasEndedIsNotServed() async throws {
    try await withEngine { test in
      let guest = try await AttachedGuest(test)
      let (first, second) = (test.fleecing([guest]), test.fleecing([guest]))
      try await test.begin(first)
      try await test.begin(second)
      let client = try await PeerProcess("qemu-io", ["-r", "-f", "raw", test.uri(first)])
      try await eventually("a client is connected") { await test.activity(first)?.clients == 1 }
      await test.engine.end(first.fleecing)
      _ = try await Tool.runAside("nbdinfo", ["--size", test.uri(first)], expecting: [1])
      #expect(try await Tool.runAside("nbdinfo", ["--size", test.uri(second)]) == "\(guest.contents.count)\n")
      client.stop()
      #expect(
        await code {
          try await test.engine.release([FleecedExtent(offset: 0, length: 1)], of: guest.record.id, in: first.fleecing)
        } == .fleecingEnded)
      await test.engine.end(second.fleecing)
      await test.engine.end(second.fleecing)
      try await guest.detach()
    }
  }

  /// Where neither memory nor temp has room the view is lost, and the guest goes on.
  @Test func aMomentThatIsLostIsTold() async throws {
    let little = FleecingConfiguration(tempByteCount: 0, memoryByteCount: 1 << 20)
    try await withEngine(fleecing: little) { test in
      let losses = Lock<[FleecingLoss]>([])
      test.engine.onFleecingLoss { loss in losses.withLock { $0.append(loss) } }
      let guest = try await AttachedGuest(test)
      let order = test.fleecing([guest])
      try await test.begin(order)
      try await guest.write(9, at: 0, 3 << 20)
      try await eventually("the loss is told") { losses.withLock { !$0.isEmpty } }
      let loss = try #require(losses.withLock { $0.first })
      #expect(loss.fleecing == order.fleecing && loss.problem.code == .pointInTimeLost)
      #expect(loss.problem.detail.contains("no room") && loss.problem.detail.contains("'vm'"), "\(loss.problem.detail)")
      for offset in ["0", "3900k"] {
        try await Tool.runAside(
          "qemu-io", ["-r", "-f", "raw", "-c", "read \(offset) 64k", test.uri(order)], expecting: [1])
      }
      await test.engine.end(order.fleecing)
      try await guest.detach()
      #expect(losses.withLock { $0.count } == 1, "an end is no loss")
    }
  }

  /// One image that can't be held, or an address that can't be had, leaves nothing held.
  @Test func whatCannotBeginHoldsNothing() async throws {
    try await withEngine { test in
      let guests = [try await AttachedGuest(test, "a"), try await AttachedGuest(test, "b")]
      try await guests[1].detach()
      let writer = ImageID()
      var order = test.fleecing(guests)
      try await test.attach(guests[1].location, as: writer)
      #expect(await code { try await test.begin(order) } == .imageInUse)
      try await test.engine.detach(writer)
      order.listen = .unix(path: test.root + "/elsewhere.sock")
      #expect(await code { try await test.begin(order) } == .pathOutsideFolders)
      order.listen = .unix(path: test.socket("fleece"))
      let control = RecordingJobControl(cancelAtCheckpoint: 1)
      await #expect(throws: CancellationError.self) { try await test.engine.fleece(order, control: control) }
      #expect(test.engine.fleecings.isEmpty)
      let graph = try guests[0].graph
      #expect(await graph.filters.isEmpty)
      try await test.begin(order)
      for (index, guest) in guests.enumerated() {
        #expect(try await test.copied(order, part: index) == guest.contents)
      }
      // The engine's own end takes it along.
      #expect(await code { try await guests[0].detach() } == .imageInUse)
    }
  }
}
