import BlockTesting
import Engine
import Foundation
import Model
import ModelTesting
import Testing

/// What recording may take of memory, over all images.
struct TrackingMemoryTests {
  /// An image of 8 MiB takes 8 KiB for its map and 4 KiB for each bitmap that records.
  private static let (map, bitmap) = (8192, 4096)

  private func expectFull(_ error: DomainError?, asks count: Int, left: Int, of total: Int) {
    let detail = error?.detail ?? "nothing was refused"
    #expect(error?.code == .bitmapLimit && error?.remedy?.contains("trackingMemory") == true)
    #expect(
      detail.contains("at least \(count) more bytes") && detail.contains("\(left) of the \(total)"), "\(detail)")
  }

  @Test func imagesAndBitmapsAreRefusedOnceThereIsNoMore() async throws {
    let total = 2 * Self.map + 4 * Self.bitmap
    try await withEngine(trackingMemory: total) { test in
      let all = try ["a", "b", "c"].map { try BitmapSubject(test, ResourceName($0) ?? "vm") }
      for vm in all { try await vm.add("b0") }
      func attach(_ vm: BitmapSubject) async throws { try await test.attach(vm.image.location, as: vm.image.id) }
      try await attach(all[0])
      try await attach(all[1])
      try await all[0].add("b1")
      expectFull(
        await refusal { try await attach(all[2]) }, asks: Self.map + Self.bitmap, left: Self.bitmap, of: total)
      try await all[1].add("b1", isPersistent: false)
      let before = try await all[0].story
      expectFull(await refusal { try await all[0].add("b2") }, asks: Self.bitmap, left: 0, of: total)
      #expect(try await all[0].story == before)
      // What doesn't record, and what is looked at only, takes nothing.
      try await all[0].add("b2", isRecording: false)
      expectFull(await refusal { try await all[0].change("b2", .enable) }, asks: Self.bitmap, left: 0, of: total)
      // What ends makes room.
      try await all[0].change("b1", .disable)
      try await all[0].change("b2", .enable)
      try await test.engine.detach(all[1].image.id)
      try await attach(all[2])
      for vm in [all[0], all[2]] { try await test.engine.detach(vm.image.id) }
      for vm in all { try Tool.judge("check", "-q", "-f", "qcow2", vm.path) }
    }
  }

  /// All that one image could take, at rest: what is refused then is what no attach could satisfy.
  @Test func bitmapThatCouldNeverRecordIsntMade() async throws {
    let total = 1 << 20
    try await withEngine(trackingMemory: total) { test in
      let vm = try BitmapSubject(test)
      try Tool.run("qemu-img", "resize", "-q", "-f", "qcow2", vm.path, "16T")
      let fine = BitmapOrder.Change.add(granularity: 4096, isRecording: true, isPersistent: true)
      let error = await refusal { try await vm.change("b0", fine) }
      #expect(error?.code == .bitmapLimit && error?.detail.contains("allows \(total)") == true, "\(error as Any)")
      try await vm.change("b0", .add(granularity: 65536, isRecording: true, isPersistent: true))
      try await vm.attached { write in try await write("write 8T 64k") }
      #expect(try await vm.story == ["b0 recording 1"])
      // Another program's can be removed, whatever they take.
      try Tool.run("qemu-img", "bitmap", "--add", "-g", "4096", vm.path, "theirs")
      let refused = await refusal { try await test.attach(vm.image.location, as: vm.image.id) }
      #expect(refused?.code == .bitmapLimit)
      try await vm.change("b0", .disable)
      try await vm.change("theirs", .remove)
    }
  }

  /// Guests that write everywhere are recorded coarsely, and keep no other image from being attached.
  @Test func whatGuestsTakeIsLimitedSoThatImagesCanStillBeAttached() async throws {
    let total = 8 * Self.map
    try await withEngine(trackingMemory: total) { test in
      let vm = try BitmapSubject(test, "vm")
      let other = try BitmapSubject(test, "other")
      try Tool.run("qemu-img", "resize", "-q", "-f", "qcow2", vm.path, "4G")
      try await vm.change("b0", .add(granularity: 4096, isRecording: true, isPersistent: true))
      // It fits into what is kept only.
      try await other.change("b0", .add(granularity: 65536, isRecording: true, isPersistent: true))
      try await vm.attached { write in
        // A page of the map stands for 128 MiB.
        for place in stride(from: 0, to: 4096, by: 128) { try await write("write \(place)M 4k") }
        let error = await refusal { try await test.attach(other.image.location, as: other.image.id) }
        expectFull(error, asks: Self.map + Self.bitmap, left: Self.map, of: total)
        try await vm.change("b0", .disable)
        try await test.attach(other.image.location, as: other.image.id)
        try await test.engine.detach(other.image.id)
      }
      #expect(try await vm.records[0].dirtyBytes == 32 * 4096)
    }
  }
}
