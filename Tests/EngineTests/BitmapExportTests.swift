import BlockTesting
import Engine
import Foundation
import Model
import ModelTesting
import Testing

/// Bitmaps that exports show to their clients, beside what nbdinfo makes of them.
struct BitmapExportTests {
  private struct Subject {
    let test: TestEngine
    let image: BitmapImage

    init(_ test: TestEngine) throws {
      self.test = test
      image = BitmapImage(id: ImageID(), name: "vm", location: try test.makeQcow2(size: "8M"))
    }

    @discardableResult
    func change(_ bitmap: String, _ change: BitmapOrder.Change) async throws -> BitmapRecord? {
      let action = BitmapOrder.Action(image: image, bitmap: BitmapName(bitmap), change)
      return try await test.engine.change(BitmapOrder([action]))[0]
    }

    func add(_ bitmap: String, isRecording: Bool = true) async throws {
      try await change(bitmap, .add(granularity: 65536, isRecording: isRecording, isPersistent: true))
    }

    func order(attached: Bool, _ bitmaps: ExportedBitmap...) -> ExportOrder {
      test.order(
        "vm", attached ? .attachedImage(image.id) : .image(image.location), isReadOnly: !attached, bitmaps: bitmaps)
    }

    func state(_ bitmap: String) async throws -> BitmapRecord.State {
      try await test.engine.bitmap(BitmapName(bitmap), of: image).state
    }

    /// Offset and length of each dirty stretch, in granules.
    func dirty(_ name: String, _ order: ExportOrder) async throws -> [Int] {
      let text = try await Tool.runAside("nbdinfo", ["--json", "--map=qemu:dirty-bitmap:\(name)", test.uri(order)])
      let items = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [[String: Any]] ?? []
      return items.filter { $0["type"] as? Int == 1 }.flatMap { item in
        [(item["offset"] as? Int ?? -1) >> 16, (item["length"] as? Int ?? -1) >> 16]
      }
    }

    func contexts(_ order: ExportOrder) async throws -> [String] {
      let text = try await Tool.runAside("nbdinfo", ["--json", test.uri(order)])
      let found = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any]
      let export = (found?["exports"] as? [[String: Any]])?.first
      return (export?["contexts"] as? [String] ?? []).filter { $0.hasPrefix("qemu:dirty") }
    }
  }

  private func shown(_ bitmap: String, as name: String? = nil) -> ExportedBitmap {
    ExportedBitmap(bitmap: BitmapName(bitmap), exportName: name ?? bitmap)
  }

  @Test(.eachToolVersion) func clientsSeeBitmapsOfAnAttachedImageAsTheyAreByThen() async throws {
    try await withEngine { test in
      let vm = try Subject(test)
      try await vm.add("b0")
      try await vm.add("still", isRecording: false)
      try await vm.change("still", .merge([BitmapOrder.Source(image: vm.image, bitmap: BitmapName("b0"))]))
      try await test.attach(vm.image.location, as: vm.image.id)
      let order = vm.order(attached: true, shown("b0", as: "since-monday"), shown("still"))
      try await test.engine.export(order)
      #expect(try await vm.dirty("since-monday", order) == [])
      for (offset, expected) in [("1M", [16, 1]), ("7M", [16, 1, 112, 1])] {
        try await Tool.runAside("qemu-io", ["-f", "raw", "-c", "write \(offset) 1k", test.uri(order)])
        #expect(try await vm.dirty("since-monday", order) == expected)
      }
      #expect(try await vm.dirty("still", order) == [])
      #expect(try await vm.state("b0") == .busy)
      for change: BitmapOrder.Change in [.clear, .disable, .enable, .remove] {
        let error = await #expect(throws: DomainError.self) { try await vm.change("b0", change) }
        #expect(error?.code == .bitmapBusy && error?.detail.contains("'vm'") == true)
      }
      try await test.engine.withdraw(order.export, .hard)
      #expect(try await vm.change("b0", .clear)?.state == .recording)
      try await test.engine.detach(vm.image.id)
    }
  }

  @Test(.eachToolVersion) func clientsSeeBitmapsOfAnImageAtRest() async throws {
    try await withEngine { test in
      let vm = try Subject(test)
      try await vm.add("b0")
      try Tool.run("qemu-io", "-f", "qcow2", "-c", "write 3M 64k", vm.image.location.source.place)
      let order = vm.order(attached: false, shown("b0"))
      try await test.engine.export(order)
      #expect(try await vm.dirty("b0", order) == [48, 1])
      #expect(try await vm.contexts(order) == ["qemu:dirty-bitmap:b0"])
      #expect(try await vm.state("b0") == .busy)
    }
  }

  @Test func standingExportShowsOthersToNewClients() async throws {
    try await withEngine { test in
      let vm = try Subject(test)
      try await vm.add("b0")
      try await vm.add("b1")
      try await test.attach(vm.image.location, as: vm.image.id)
      var order = vm.order(attached: true, shown("b0"))
      try await test.engine.export(order)
      let client = try await test.client(of: order)
      order.bitmaps = [shown("b1")]
      try await test.engine.setContexts(order)
      #expect(try await vm.contexts(order) == ["qemu:dirty-bitmap:b1"])
      #expect(try await [vm.state("b0"), vm.state("b1")] == [.recording, .busy])
      // One that can't be had leaves all as it is.
      order.bitmaps = [shown("b0"), shown("gone")]
      #expect(await code { try await test.engine.setContexts(order) } == .notFound)
      #expect(try await vm.contexts(order) == ["qemu:dirty-bitmap:b1"])
      #expect(try await [vm.state("b0"), vm.state("b1")] == [.recording, .busy])
      client.stop()
    }
  }

  @Test func exportOfABitmapThatCantBeReadIsRefused() async throws {
    try await withEngine { test in
      let vm = try Subject(test)
      try await vm.add("b0")
      let path = vm.image.location.source.place
      let left = test.images + "/left.qcow2"
      try await test.attach(vm.image.location, as: vm.image.id)
      try FileManager.default.copyItem(atPath: path, toPath: left)
      try await test.engine.detach(vm.image.id)
      let killed = ImageLocation(source: .file(path: left), format: .qcow2)
      let order = test.order("left", .image(killed), bitmaps: [shown("b0")])
      #expect(await code { try await test.engine.export(order) } == .bitmapInconsistent)
      #expect(await code { try await test.engine.export(vm.order(attached: false, shown("gone"))) } == .notFound)
      #expect(try await vm.state("b0") == .recording)
    }
  }
}
