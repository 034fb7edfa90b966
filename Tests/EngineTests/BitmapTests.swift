import BlockTesting
import Engine
import Foundation
import Model
import ModelTesting
import Testing

/// Dirty bitmaps of images, changed at rest and while a guest writes, beside what QEMU makes of them.
struct BitmapTests {
  @Test(.eachToolVersion) func bitmapsOfAnImageAtRestAreChangedAsQEMUChangesThem() async throws {
    try await withEngine { test in
      let vm = try BitmapSubject(test)
      try Tool.run("qemu-img", "bitmap", "--add", "-g", "65536", vm.path, "theirs")
      try vm.writeAtRest("write 0 64k", "write 7M 1k")
      try await vm.add("b0")
      try await vm.add("b1", isRecording: false)
      #expect(try vm.asQEMUSees == ["theirs auto", "b0 auto", "b1 "])
      try vm.writeAtRest("write 1M 128k")
      #expect(try await vm.story == ["b0 recording 2", "b1 disabled 0", "theirs recording 4"])
      #expect(try await vm.dirty("b0") == [16, 2])
      #expect(try await vm.dirty("theirs") == [0, 1, 16, 2, 112, 1])
      let merged = try await vm.change("b1", vm.merge((vm, "theirs"), (vm, "b0")))
      #expect(merged?.dirtyBytes == 4 << 16 && merged?.state == .disabled)
      #expect(try await vm.change("theirs", .clear)?.dirtyBytes == 0)
      #expect(try await vm.change("b0", .disable)?.state == .disabled)
      #expect(try await vm.change("b1", .enable)?.state == .recording)
      #expect(try vm.asQEMUSees == ["theirs auto", "b0 ", "b1 auto"])
      #expect(try await vm.change("theirs", .remove) == nil)
      #expect(try await vm.story == ["b0 disabled 2", "b1 recording 4"])
      try Tool.judge("check", "-q", "-f", "qcow2", vm.path)
    }
  }

  @Test(.eachToolVersion) func bitmapsOfAnAttachedImageAreChangedAndStoredWhenItIsClosed() async throws {
    try await withEngine { test in
      let vm = try BitmapSubject(test)
      try await vm.add("kept", isRecording: false)
      try await vm.attached { write in
        try await write("write 0 64k")
        try await vm.add("b0")
        // It is in the file already, and to everybody else it is inconsistent.
        #expect(try await test.engine.inspect(vm.image.location).bitmaps.map(\.inconsistent) == [false, true])
        try await write("write 1M 64k", "discard 7M 64k")
        #expect(try await vm.dirty("b0") == [16, 1, 112, 1])
        // A disabled one is complete in the file at once.
        try await vm.add("b1", isRecording: false)
        #expect(try await vm.change("b1", vm.merge((vm, "b0")))?.dirtyBytes == 2 << 16)
        try await vm.change("b0", .clear)
        try await vm.add("passing", isPersistent: false)
        try await write("write -z 2M 192k")
        #expect(
          try await vm.story == ["b0 recording 3", "b1 disabled 2", "kept disabled 0", "passing recording 3"])
        try await vm.change("kept", .enable)
        try await write("write 3M 64k")
        try await vm.change("b0", .disable)
        try await write("write 4M 64k")
      }
      #expect(try await vm.story == ["b0 disabled 4", "b1 disabled 2", "kept recording 2"])
      #expect(try vm.asQEMUSees == ["kept auto", "b0 ", "b1 "])
    }
  }

  @Test func whatIsRemovedFromAnAttachedImageIsGoneFromTheFileAtOnce() async throws {
    try await withEngine { test in
      let vm = try BitmapSubject(test)
      try await vm.add("b0")
      try await vm.add("b1", isRecording: false)
      try await vm.attached { write in
        try await write("write 0 64k")
        try await vm.change("b0", .remove)
        try await vm.change("b1", .remove)
        // What vouches for the record of changes stays, as long as the image may get bitmaps.
        #expect(try await test.engine.inspect(vm.image.location).bitmaps.map(\.name) == ["cobweb.witness"])
        try await write("write 1M 64k")
      }
      #expect(try await vm.records.isEmpty)
    }
  }

  @Test func disabledBitmapRecordsNothingThroughAnyClose() async throws {
    try await withEngine { test in
      let vm = try BitmapSubject(test)
      try await vm.add("b0", isRecording: false)
      try await vm.attached { write in try await write("write 0 64k") }
      try vm.writeAtRest("write 1M 64k")
      #expect(try await vm.story == ["b0 disabled 0"])
      try await vm.change("b0", .enable)
      try await vm.attached { write in try await write("write 2M 64k") }
      #expect(try await vm.dirty("b0") == [32, 1])
    }
  }

  @Test func transactionOverImagesAttachedAndAtRestIsDoneWholeOrNotAtAll() async throws {
    try await withEngine { test in
      let (live, rest) = (try BitmapSubject(test, "live"), try BitmapSubject(test, "rest"))
      for subject in [live, rest] { try await subject.add("b0") }
      try rest.writeAtRest("write 0 64k")
      try await live.attached { write in
        try await write("write 1M 64k")
        let before = (try await live.story, try await rest.story)
        let bad = BitmapOrder([
          live.action("b0", .clear), rest.action("b0", .disable),
          live.action("b1", .add(granularity: 4096, isRecording: true, isPersistent: true)),
          rest.action("gone", .clear),
        ])
        let error = await refusal { _ = try await test.engine.change(bad) }
        #expect(error?.code == .notFound && error?.faults.first?.part == .field(Field("actions").item(3)))
        #expect((try await live.story, try await rest.story) == before)
        // Rehearsed, it tells what would come of it.
        var good = BitmapOrder(Array(bad.actions.dropLast()) + [live.action("b1", live.merge((rest, "b0")))])
        good.isRehearsal = true
        // Coarser than the new one.
        #expect(await refusal { _ = try await test.engine.change(good) }?.code == .bitmapMismatch)
        good.actions[2].change = .add(granularity: 65536, isRecording: true, isPersistent: true)
        let expected = try await test.engine.change(good)
        #expect((try await live.story, try await rest.story) == before)
        good.isRehearsal = false
        #expect(try await test.engine.change(good) == expected)
        #expect(expected.map { $0?.dirtyBytes } == [0, 1 << 16, 1 << 16, 1 << 16])
        try await write("write 2M 64k")
        #expect(try await live.dirty("b0") == [32, 1])
        #expect(try await live.dirty("b1") == [0, 1, 32, 1])
        #expect(try await rest.story == ["b0 disabled 1"])
      }
      #expect(try await live.story == ["b0 recording 1", "b1 recording 2"])
    }
  }

  /// What a backup tool does again and again: it keeps what is dirty aside, and has the bitmap begin anew.
  @Test func noChangeIsLostBetweenTwoMomentsWhileAGuestWrites() async throws {
    try await withEngine { test in
      let vm = try BitmapSubject(test)
      try await vm.change("b0", .add(granularity: 4096, isRecording: true, isPersistent: true))
      try await vm.change("all", .add(granularity: 4096, isRecording: false, isPersistent: true))
      var random = SeededRandom(seed: 20)
      let granules = Set((0..<400).map { _ in random.below(2048) })
      let uri = test.uri(test.order(vm.image.name, .attachedImage(vm.image.id)))
      let handOver = BitmapOrder([vm.action("all", vm.merge((vm, "b0"))), vm.action("b0", .clear)])
      try await vm.attached { write in
        let guestWrites = granules.sorted()
        for start in stride(from: 0, to: guestWrites.count, by: 50) {
          let commands = guestWrites[start...].prefix(50).flatMap { ["-c", "aio_write \($0 * 4096) 512"] }
          async let writing = Tool.runAside("qemu-io", ["-f", "raw"] + commands + ["-c", "aio_flush", uri])
          for _ in 0..<4 { _ = try await test.engine.change(handOver) }
          _ = try await writing
        }
        _ = try await test.engine.change(handOver)
      }
      let page = try await test.engine.extents(of: BitmapName("all"), of: vm.image, StoredExtentQuery(limit: 1000))
      let found = page.items.filter(\.dirty).flatMap { $0.offset / 4096..<($0.offset + $0.length) / 4096 }
      #expect(found.map { Int($0) } == granules.sorted(), "\(random)")
    }
  }

  @Test func imageThatCantStoreItsBitmapsGivesTheOthersTheirsBack() async throws {
    try await withEngine { test in
      let ids = [ImageID(), ImageID()].sorted()
      let first = try BitmapSubject(test, "first", id: ids[0])
      try await first.add("b0")
      try first.writeAtRest("write 0 64k")
      // Its header has no room left that could name bitmaps.
      let folder = String(repeating: "d", count: 200)
      try FileManager.default.createDirectory(atPath: test.images + "/" + folder, withIntermediateDirectories: true)
      let base = folder + "/" + String(repeating: "b", count: 150)
      try SampleImage.raw(at: test.images + "/" + base, byteCount: 1 << 20, seed: 1)
      let path = test.images + "/second.qcow2"
      try Tool.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "-b", base, "-F", "raw", path)
      let second = BitmapImage(
        id: ids[1], name: "second", location: ImageLocation(source: .file(path: path), format: .qcow2))
      let tooMuch = BitmapOrder.Action(
        image: second, bitmap: BitmapName("b0"), .add(granularity: 65536, isRecording: false, isPersistent: true))
      for isAttached in [false, true] {
        func attempt() async throws {
          let before = try await first.story
          let order = BitmapOrder([first.action("b0", .remove), tooMuch])
          #expect(await refusal { _ = try await test.engine.change(order) }?.code == .storageFull)
          #expect(try await first.story == before)
          #expect(try await test.engine.bitmaps(of: second, after: nil, limit: 1).isEmpty)
        }
        guard isAttached else {
          try await attempt()
          continue
        }
        try await first.attached { write in
          try await attempt()
          try await write("write 1M 64k")
        }
        #expect(try await first.story == ["b0 recording 2"])
      }
    }
  }

  @Test(.eachToolVersion) func whatAnUncleanStopOrAnotherProgramLeftIsShownAndOnlyRemoved() async throws {
    try await withEngine { test in
      let vm = try BitmapSubject(test)
      try await vm.add("b0")
      try await vm.add("b1", isRecording: false)
      // Its bitmap is in use in a copy of the file, as after a kill.
      let left = test.images + "/left.qcow2"
      try await vm.attached { _ in try FileManager.default.copyItem(atPath: vm.path, toPath: left) }
      let killed = BitmapImage(
        id: ImageID(), name: "left", location: ImageLocation(source: .file(path: left), format: .qcow2))
      func states() async throws -> [String] {
        try await test.engine.bitmaps(of: killed, after: nil, limit: 10).map(\.state.rawValue)
      }
      func change(_ bitmap: String, _ change: BitmapOrder.Change) async throws {
        _ = try await test.engine.change(
          BitmapOrder([BitmapOrder.Action(image: killed, bitmap: BitmapName(bitmap), change)]))
      }
      #expect(try await states() == ["inconsistent", "disabled"])
      #expect(await refusal { try await change("b0", .clear) }?.code == .bitmapInconsistent)
      let name = BitmapName("b0")
      let query = StoredExtentQuery(limit: 10)
      #expect(await code { _ = try await test.engine.extents(of: name, of: killed, query) } == .bitmapInconsistent)
      try await change("b0", .remove)
      try await change("b1", .enable)
      #expect(try await states() == ["recording"])
      // A program without bitmaps clears the autoclear bit.
      let file = try FileHandle(forUpdating: URL(fileURLWithPath: left))
      try file.seek(toOffset: 88)
      try file.write(contentsOf: Data(repeating: 0, count: 8))
      try file.close()
      #expect(try await states() == ["orphaned"])
      #expect(await refusal { try await change("b1", .disable) }?.code == .bitmapInconsistent)
      try await change("b1", .remove)
      #expect(try await states().isEmpty)
      try Tool.run("qemu-img", "check", "-r", "leaks", "-q", "-f", "qcow2", left)
      try Tool.judge("check", "-q", "-f", "qcow2", left)
    }
  }

  @Test func pagesAndGenerationsOfDirtyExtents() async throws {
    try await withEngine { test in
      let vm = try BitmapSubject(test)
      try await vm.add("b0")
      try await vm.add("still", isRecording: false)
      try await vm.attached { write in
        try await write("write 64k 64k", "write 1M 128k")
        func page(_ offset: UInt64, _ length: UInt64? = nil, limit: Int = 2) async throws -> DirtyExtentPage {
          let query = StoredExtentQuery(offset: offset, length: length, limit: limit)
          return try await test.engine.extents(of: BitmapName("b0"), of: vm.image, query)
        }
        let first = try await page(0)
        #expect(first.items.map(\.dirty) == [false, true] && first.nextOffset == 131072)
        let second = try await page(131072)
        #expect(second.items.map(\.length) == [14 << 16, 2 << 16] && second.generation == first.generation)
        #expect(try await page(1 << 20, 4096).items == [.init(offset: 1 << 20, length: 4096, dirty: true)])
        #expect(try await page(8 << 20).items.isEmpty)
        #expect(await code { _ = try await page((8 << 20) + 1) } == .invalidParameter)
        func generation(_ bitmap: String) async throws -> String {
          try await test.engine.extents(of: BitmapName(bitmap), of: vm.image, StoredExtentQuery(limit: 1)).generation
        }
        let (recording, still) = (try await generation("b0"), try await generation("still"))
        try await write("write 0 512")
        #expect(try await generation("b0") != recording)
        #expect(try await generation("still") == still)
        try await vm.change("still", vm.merge((vm, "b0")))
        #expect(try await generation("still") != still)
      }
    }
  }

  @Test func imagesWithoutBitmapsSaySo() async throws {
    try await withEngine { test in
      let raw = test.images + "/raw"
      try SampleImage.raw(at: raw, byteCount: 1 << 20, seed: 1)
      let image = BitmapImage(
        id: ImageID(), name: "raw", location: ImageLocation(source: .file(path: raw), format: .raw))
      let old = test.images + "/old"
      try Tool.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", old, "1M")
      let version2 = BitmapImage(
        id: ImageID(), name: "old", location: ImageLocation(source: .file(path: old), format: .qcow2))
      for image in [image, version2] {
        let action = BitmapOrder.Action(
          image: image, bitmap: BitmapName("b0"), .add(granularity: 65536, isRecording: true, isPersistent: true))
        #expect(await code { _ = try await test.engine.change(BitmapOrder([action])) } == .formatUnsupported)
        #expect(try await test.engine.bitmaps(of: image, after: nil, limit: 10).isEmpty)
      }
    }
  }

  @Test func imageThatIsReadByAnExportKeepsItsBitmapsAsTheyAre() async throws {
    try await withEngine { test in
      let vm = try BitmapSubject(test)
      try await vm.add("b0")
      let export = test.order("look", .image(vm.image.location))
      try await test.engine.export(export)
      #expect(try await vm.story == ["b0 recording 0"])
      let error = await refusal { try await vm.change("b0", .clear) }
      #expect(error?.code == .imageLocked && error?.detail.contains("export") == true, "\(error as Any)")
      try await test.engine.withdraw(export.export, .safe)
      try await vm.change("b0", .clear)
    }
  }
}
