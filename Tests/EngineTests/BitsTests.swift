import BlockTesting
import Engine
import Foundation
import Model
import Testing

/// The bits of bitmaps, taken out of images and put into others.
struct BitsTests {
  private func bits(_ bitmap: String, of subject: BitmapSubject) async throws -> BitmapBits {
    try await subject.test.engine.bits(of: BitmapName(bitmap), of: subject.image)
  }

  private func unite(
    _ bits: BitmapBits, generation: String? = nil, replacing: String? = nil
  ) -> BitmapOrder.Change {
    .unite(BitmapImport(bytes: bits.bytes, generation: generation, replaceable: replacing.map { [$0] }))
  }

  @Test(.eachToolVersion) func bitsGoFromImageToImageAndAreAddedToWhatIsThere() async throws {
    try await withEngine { test in
      let (from, to) = (try BitmapSubject(test, "from"), try BitmapSubject(test, "to"))
      try await from.add("b0")
      try from.writeAtRest("write 0 64k", "write 7M 1k")
      let atRest = try await bits("b0", of: from)
      try await to.add("b1", isRecording: false)
      try await to.add("b2")
      try to.writeAtRest("write 1M 64k")
      #expect(try await to.change("b1", unite(atRest))?.dirtyBytes == 2 << 16)
      #expect(try await to.dirty("b1") == [0, 1, 112, 1])
      // Both attached, the guests write on.
      try await from.attached { writeFrom in
        try await writeFrom("write 2M 64k")
        let live = try await bits("b0", of: from)
        #expect(live.generation != atRest.generation)
        try await to.attached { writeTo in
          try await writeTo("write 3M 64k")
          #expect(try await to.change("b2", unite(live))?.dirtyBytes == 5 << 16)
          try await writeTo("write 4M 64k")
        }
      }
      #expect(try await to.dirty("b2") == [0, 1, 16, 1, 32, 1, 48, 1, 64, 1, 112, 1])
      #expect(try to.asQEMUSees.filter { $0.hasPrefix("b") } == ["b1 ", "b2 auto"])
    }
  }

  @Test func bitsOfOneStateAreOneGeneration() async throws {
    try await withEngine { test in
      let vm = try BitmapSubject(test)
      try await vm.add("b0")
      let first = try await bits("b0", of: vm)
      #expect(try await bits("b0", of: vm) == first)
      let digits = first.bytes[32..<48].map { String(format: "%02x", $0) }.joined()
      #expect(digits == first.generation)
      try vm.writeAtRest("write 0 64k")
      #expect(try await bits("b0", of: vm).generation != first.generation)
      try await vm.attached { write in
        let live = try await bits("b0", of: vm)
        #expect(try await bits("b0", of: vm) == live)
        try await write("write 0 64k")
        #expect(try await bits("b0", of: vm).generation != live.generation)
      }
    }
  }

  @Test func generationsThatArentMeantAreRefused() async throws {
    try await withEngine { test in
      let vm = try BitmapSubject(test)
      try await vm.add("b0")
      try vm.writeAtRest("write 0 64k")
      let old = try await bits("b0", of: vm)
      try await vm.change("b0", .clear)
      // Neither by what the bits were, nor by what the bitmap is.
      let other = String(repeating: "0", count: 32)
      let (foreign, late) = (unite(old, generation: other), unite(old, replacing: old.generation))
      #expect(await refusal { try await vm.change("b0", foreign) }?.code == .bitmapMismatch)
      let stale = await refusal { try await vm.change("b0", late) }
      #expect(stale?.code == .preconditionFailed && stale?.detail.contains("'b0'") == true)
      #expect(try await vm.story == ["b0 recording 0"])
      let now = try await bits("b0", of: vm).generation
      try await vm.change("b0", unite(old, generation: old.generation, replacing: now))
      #expect(try await vm.story == ["b0 recording 1"])
    }
  }

  @Test func generationsOfAnAttachedImageAreThoseOfTheMoment() async throws {
    try await withEngine { test in
      let vm = try BitmapSubject(test)
      try await vm.add("b0")
      try await vm.attached { write in
        try await write("write 0 64k")
        let live = try await bits("b0", of: vm)
        let stale = unite(live, replacing: live.generation)
        try await write("write 1M 64k")
        #expect(await refusal { try await vm.change("b0", stale) }?.code == .preconditionFailed)
        try await vm.change("b0", unite(live, replacing: try await bits("b0", of: vm).generation))
      }
      #expect(try await vm.dirty("b0") == [0, 1, 16, 1])
    }
  }

  @Test func whatDoesntFitOrIsInUseIsRefusedAndNothingChanges() async throws {
    try await withEngine { test in
      let (vm, larger) = (try BitmapSubject(test), try BitmapSubject(test, "larger", size: "9M"))
      for subject in [vm, larger] { try await subject.add("b0", isRecording: false) }
      try await vm.change("fine", .add(granularity: 4096, isRecording: false, isPersistent: true))
      let (good, large) = (try await bits("b0", of: vm), try await bits("b0", of: larger))
      let before = try await vm.story
      func code(_ bitmap: String, _ change: BitmapOrder.Change) async -> ProblemCode? {
        await refusal { try await vm.change(bitmap, change) }?.code
      }
      #expect(await code("b0", unite(large)) == .bitmapMismatch)
      #expect(await code("fine", unite(good)) == .bitmapMismatch)
      #expect(await code("gone", unite(good)) == .notFound)
      for bytes in [[], Array(good.bytes.dropLast()), good.bytes + [0], Array("{}".utf8)] {
        #expect(await code("b0", .unite(BitmapImport(bytes: bytes))) == .malformedBits)
      }
      // A tracker's, which can be read.
      let own = "cobweb.vm.01ARZ3NDEKTSV4RRFFQ69G5FAV"
      try Tool.run("qemu-img", "bitmap", "--add", "-g", "65536", vm.path, own)
      _ = try await bits(own, of: vm)
      let refused = await refusal { try await vm.change(own, unite(good)) }
      #expect(refused?.code == .bitmapBusy && refused?.detail.contains("tracker 'vm'") == true, "\(refused as Any)")
      try Tool.run("qemu-img", "bitmap", "--remove", vm.path, own)
      #expect(try await vm.story == before)
    }
  }

  @Test func bitsAreReadAndNotChangedWhileAnExportShowsTheBitmap() async throws {
    try await withEngine { test in
      let vm = try BitmapSubject(test)
      try await vm.add("b0")
      try await test.attach(vm.image.location, as: vm.image.id)
      let shown = ExportedBitmap(bitmap: BitmapName("b0"), exportName: "b0")
      let export = test.order("look", .attachedImage(vm.image.id), bitmaps: [shown])
      try await test.engine.export(export)
      let found = try await bits("b0", of: vm)
      #expect(await refusal { try await vm.change("b0", unite(found)) }?.code == .bitmapBusy)
      try await test.engine.withdraw(export.export, .hard)
      try await vm.change("b0", unite(found))
      try await test.engine.detach(vm.image.id)
    }
  }
}
