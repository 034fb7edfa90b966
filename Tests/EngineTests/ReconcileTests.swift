import Engine
import Foundation
import Glibc
import Model
import ModelTesting
import Testing

/// What images at rest have of their tracking, told and put right, beside what QEMU sees of it.
struct ReconcileTests {
  private static let (old, new) = ("cobweb.vm.01ARZ3NDEKTSV4RRFFQ69G5FAV", "cobweb.vm.01BRZ3NDEKTSV4RRFFQ69G5FAV")

  private func tracking(_ vm: BitmapSubject) async throws -> ImageTracking {
    try await vm.test.engine.tracking(of: vm.image.location)
  }

  private func repair(_ vm: BitmapSubject, _ adjust: (inout TrackingRepair) -> Void) async throws {
    var repair = TrackingRepair(job: JobID(), image: vm.image.location)
    adjust(&repair)
    try await vm.test.engine.repairTracking(repair)
    try Tool.judge("check", "-q", "-f", "qcow2", vm.path)
  }

  @Test(.eachToolVersion) func twoBitmapsOfATrackerBecomeOneThatMissesNothing() async throws {
    try await withEngine { test in
      let vm = try BitmapSubject(test)
      try await vm.add("theirs", isRecording: false)
      try Tool.run("qemu-img", "bitmap", "--add", "-g", "65536", vm.path, Self.old)
      try vm.writeAtRest("write 0 64k")
      try Tool.run("qemu-img", "bitmap", "--disable", vm.path, Self.old)
      try Tool.run("qemu-img", "bitmap", "--add", "-g", "4096", vm.path, Self.new)
      try vm.writeAtRest("write 1M 64k")
      let found = try await tracking(vm)
      #expect(found.bitmaps.map(\.isEnabled) == [false, false, true] && found.bitmaps.allSatisfy { $0.flaw == nil })
      try await repair(vm) {
        $0.merges = [TrackingRepair.Merge(source: BitmapName(Self.new), target: BitmapName(Self.old))]
        $0.takesMarksOut = true
      }
      #expect(try vm.asQEMUSees.sorted() == [Self.old + " auto", "theirs "])
      #expect(try await vm.dirty(Self.old) == [0, 1, 16, 1])
      try vm.writeAtRest("write 2M 64k")
      #expect(try await vm.dirty(Self.old) == [0, 1, 16, 1, 32, 1])
    }
  }

  @Test(.eachToolVersion) func bitmapsAreRemovedAndTheMarksWithTheLast() async throws {
    try await withEngine { test in
      let vm = try BitmapSubject(test)
      for name in [Self.old, "b0"] { try Tool.run("qemu-img", "bitmap", "--add", "-g", "65536", vm.path, name) }
      try await vm.attached { write in try await write("write 0 64k") }
      #expect(try await tracking(vm).isMarked)
      // Something is recorded still: the marks stay.
      let removal = { (repair: inout TrackingRepair) in
        (repair.removals, repair.takesMarksOut) = ([BitmapName(Self.old), BitmapName("gone")], true)
      }
      try await repair(vm, removal)
      var found = try await tracking(vm)
      #expect(found.isMarked && found.bitmaps.map(\.name) == [BitmapName("b0")])
      try await vm.change("b0", .disable)
      try await repair(vm, removal)
      found = try await tracking(vm)
      #expect(!found.isMarked && found.bitmaps.map(\.isEnabled) == [false])
      #expect(try vm.asQEMUSees == ["b0 "])
    }
  }

  @Test func recordsThatCountNoMoreAreFoundAndRemoved() async throws {
    try await withEngine { test in
      let (vm, other) = (try BitmapSubject(test), try BitmapSubject(test, "other"))
      try await vm.add("b0")
      let (folder, aside) = (test.root + "/tracking", test.root + "/aside")
      try await vm.attached { write in
        try await write("write 0 64k")
        try FileManager.default.createDirectory(atPath: aside, withIntermediateDirectories: true)
        for name in TestEngine.files(beneath: folder) {
          #expect(link(folder + "/" + name, aside + "/" + name) == 0)
        }
      }
      #expect(try await tracking(vm).leftRecordCount == 0 && TestEngine.files(beneath: folder) == [])
      for name in TestEngine.files(beneath: aside) { #expect(link(aside + "/" + name, folder + "/" + name) == 0) }
      try Data("{".utf8).write(to: URL(fileURLWithPath: folder + "/" + String(repeating: "0", count: 32) + ".1"))
      #expect(try await tracking(vm).leftRecordCount == 1)
      #expect(try await tracking(other).leftRecordCount == 0)
      try await repair(other) { $0.removesLeftRecords = true }
      #expect(try await tracking(vm).leftRecordCount == 1)
      try await repair(vm) { $0.removesLeftRecords = true }
      #expect(try await tracking(vm).leftRecordCount == 0)
      #expect(TestEngine.files(beneath: folder).count == 1, "what tells nothing is left alone")
      #expect(try await vm.story == ["b0 recording 1"])
    }
  }

  @Test func whatCantBeBuiltOnSaysWhy() async throws {
    try await withEngine { test in
      let vm = try BitmapSubject(test)
      try await vm.add("b0")
      let left = test.images + "/left.qcow2"
      try await vm.attached { write in
        try await write("write 0 64k")
        try FileManager.default.copyItem(atPath: vm.path, toPath: left)
        #expect(await code { _ = try await tracking(vm) } == .imageInUse)
      }
      let location = ImageLocation(source: .file(path: left), format: .qcow2)
      var found = try await test.engine.tracking(of: location)
      #expect(found.bitmaps.map(\.flaw) == ["the last program that recorded it didn't close the image"])
      #expect(!found.awaitsRecovery, "it is another file, and its record is gone")
      let file = try FileHandle(forUpdating: URL(fileURLWithPath: left))
      try file.seek(toOffset: 88)
      try file.write(contentsOf: Data(repeating: 0, count: 8))
      try file.close()
      found = try await test.engine.tracking(of: location)
      #expect(found.bitmaps.contains { $0.flaw == "a program changed the image that keeps no bitmaps" })
      #expect(!found.isMarked)
      // Nothing is merged or removed of what nothing is known of.
      var repair = TrackingRepair(job: JobID(), image: location)
      repair.removals = [BitmapName("b0")]
      try await test.engine.repairTracking(repair)
      #expect(try await test.engine.tracking(of: location).bitmaps == found.bitmaps)
      let raw = test.images + "/raw"
      try SampleImage.raw(at: raw, byteCount: 1 << 20, seed: 1)
      let plain = ImageLocation(source: .file(path: raw), format: .raw)
      #expect(try await test.engine.tracking(of: plain) == ImageTracking())
    }
  }
}
