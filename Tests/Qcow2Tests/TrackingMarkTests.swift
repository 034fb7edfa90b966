import BlockCore
import BlockTesting
import Testing

@testable import Qcow2

@Suite struct TrackingMarkTests {
  static let mark = TrackingMark(sidecar: .max / 3, session: 77, sequence: 1)

  private static func next(_ mark: TrackingMark) -> TrackingMark {
    TrackingMark(sidecar: mark.sidecar, session: mark.session &* 31, sequence: mark.sequence + 1)
  }

  private static let options = [
    "cluster_size=512", "cluster_size=1024", "cluster_size=4096", "cluster_size=64k", "cluster_size=2M",
  ]

  /// Puts a mark in, changes it and takes it out, of images as QEMU makes them.
  @Test(.eachToolVersion, arguments: options)
  func markIsPutInChangedAndTakenOut(_ options: String) async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("image")
    try Qemu.image("create", "-q", "-f", "raw", folder.file("base"), "3M")
    try Qemu.image(
      "create", "-q", "-f", "qcow2", "-o", options, "-b", "base", "-F", "raw", path, "3M")
    try Qemu.io(path, ["write -P 3 64k 100k"])
    try await LoopActor().run { _ in
      let bytes = try Qemu.guestBytes(path)
      let backing = BackingSource.device(MemoryDevice(byteCount: 3 << 20))
      let device = MemoryDevice(try SparseImage(contentsOf: path))
      let image = try await openImage(device, backing: backing)
      #expect(image.trackingMark == nil)
      try await image.setTrackingMark(Self.mark)
      #expect(image.trackingMark == Self.mark)
      let writes = device.calls[.write]
      let later = Self.next(Self.mark)
      try await image.setTrackingMark(later)
      #expect(device.calls[.write] == writes + 1, "a change is one write of one sector")
      try await image.writeBytes([3, 3, 3], at: 70_000)
      try await image.close()
      try device.image.dump(to: path)
      #expect(try Qemu.check(path) == .clean)
      #expect(try Qemu.guestBytes(path) == bytes)
      let again = MemoryDevice(device.image)
      let read = try await Qcow2Header.read(from: again, pool: pool)
      #expect(read.trackingMark == later && read.backingName == Array("base".utf8))
      let reopened = try await openImage(again, backing: backing)
      try await reopened.removeTrackingMark()
      try await reopened.close()
      let without = try await Qcow2Header.read(from: MemoryDevice(again.image), pool: pool)
      #expect(without.contents(ofExtension: HeaderExtension.Kind.trackingMark) == nil && without.autoclear == [])
      try again.image.dump(to: path)
      #expect(try Qemu.check(path) == .clean)
      #expect(try Qemu.guestBytes(path) == bytes)
    }
  }

  /// With large clusters QEMU's header names its features, and reaches past its first sector.
  @Test(arguments: ["cluster_size=4096", "cluster_size=64k"])
  func powerLossAtAnyCallLeavesTheOldOrTheNewMark(_ options: String) async throws {
    let folder = try TemporaryFolder()
    let path = try BitmapStoringTests.image(in: folder, options: options)
    try await LoopActor().run { _ in
      // An earlier opening left a mark.
      let old = TrackingMark(sidecar: 5, session: 6, sequence: 7)
      let made = MemoryDevice(try SparseImage(contentsOf: path))
      let first = try await openToKeepBitmaps(made)
      try await first.setTrackingMark(old)
      try await first.close()
      let file = made.image
      func tell(_ device: CrashPointDevice, _ expect: (TrackingMark?) -> Void) async throws {
        let image = try await openToKeepBitmaps(device)
        var mark = Self.mark
        for _ in 0..<3 {
          expect(mark)
          try await image.setTrackingMark(mark)
          mark = Self.next(mark)
        }
        // Bitmaps come into being and go beside it.
        try await image.changeBitmaps([.remove(name: Array("monday".utf8)), .remove(name: Array("tuesday".utf8))])
        try await image.changeBitmaps([.store(TestBitmap("new", granularity: 4096, byteCount: 3 << 20))])
        expect(nil)
        try await image.removeTrackingMark()
      }
      let whole = CrashPointDevice(file)
      try await tell(whole) { _ in }
      #expect(whole.changingCalls > 15)
      for call in 1...whole.changingCalls {
        let device = CrashPointDevice(file)
        device.crash(atCall: call)
        var marks: [TrackingMark?] = [old, nil]
        var told = 0
        try? await tell(device) {
          marks = told == 0 ? marks + [$0] : [marks[marks.count - 1], $0]
          told += 1
        }
        for found in device.durableImages(seed: UInt64(call)) {
          let image = try await openToKeepBitmaps(found)
          #expect(marks.contains(image.trackingMark), "call \(call)")
          #expect(try await image.bitmaps().areTrusted, "call \(call)")
          #expect(try await image.check().corruptionCount == 0, "call \(call)")
        }
      }
    }
  }

  /// What opens the image without the mark makes it void before anything else, be it us or QEMU.
  @Test(.eachToolVersion) func writersThatDoNotKnowTheMarkClearItsBit() async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("image")
    try Qemu.image("create", "-q", "-f", "qcow2", path, "3M")
    try await LoopActor().run { _ in
      func mark() async throws {
        let device = MemoryDevice(try SparseImage(contentsOf: path))
        let image = try await openImage(device)
        try await image.setTrackingMark(Self.mark)
        try await image.close()
        try device.image.dump(to: path)
      }
      func found() async throws -> (mark: TrackingMark?, hasExtension: Bool) {
        let header = try await Qcow2Header.read(from: MemoryDevice(try SparseImage(contentsOf: path)), pool: pool)
        return (header.trackingMark, header.contents(ofExtension: HeaderExtension.Kind.trackingMark) != nil)
      }
      try await mark()
      // Who reads leaves it as it is.
      _ = try Qemu.guestBytes(path)
      #expect(try Qemu.check(path) == .clean)
      #expect(try await found() == (Self.mark, true))
      let device = MemoryDevice(try SparseImage(contentsOf: path))
      let image = try await openImage(device)
      try await image.flush()
      #expect(image.trackingMark == Self.mark)
      try await image.writeBytes([1], at: 0)
      #expect(image.trackingMark == nil)
      try await image.close()
      for change in [["write -P 4 1M 4k"], ["discard 0 64k"], ["write -z 0 4k"]] {
        try await mark()
        try Qemu.io(path, change)
        #expect(try await found() == (nil, true), "\(change)")
        #expect(try Qemu.check(path) == .clean)
      }
      try await mark()
      try Qemu.image("resize", "-q", path, "4M")
      #expect(try await found() == (nil, true))
      try await mark()
      try Qemu.image("bitmap", "--add", path, "monday")
      #expect(try await found() == (nil, true))
      #expect(try Qemu.check(path) == .clean)
    }
  }

  /// Where QEMU opens an image to be read, and to be written later, it leaves the bit: an enabled bitmap that we leave
  /// empty and not in use tells of it.
  @Test(.eachToolVersion) func commitLeavesTheBitAndAnEmptyBitmapRecordsIt() async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("image")
    try Qemu.image("create", "-q", "-f", "qcow2", path, "3M")
    try await LoopActor().run { _ in
      let device = MemoryDevice(try SparseImage(contentsOf: path))
      let image = try await openToKeepBitmaps(device)
      try await image.markBitmapsInUse([], leaving: .names("cobweb.witness"))
      try await image.setTrackingMark(Self.mark)
      try await image.changeBitmaps([.store(TestBitmap("cobweb.witness", granularity: 65536, byteCount: 3 << 20))])
      try await image.writeBytes([1], at: 0)
      #expect(image.trackingMark == Self.mark)
      // As a killed server leaves it.
      try await image.flush()
      try device.image.dump(to: path)
      #expect(try Qemu.check(path).corruptions == 0)
      try Qemu.image("create", "-q", "-f", "qcow2", "-b", "image", "-F", "qcow2", folder.file("top"))
      try Qemu.io(folder.file("top"), ["write -P 5 1M 4k"])
      try Qemu.image("commit", "-q", folder.file("top"))
      let after = try await openFile(path)
      #expect(after.trackingMark == Self.mark)
      let witness = try await TestBitmap.load("cobweb.witness", from: after)
      #expect(witness.isInUse || witness.dirtyRanges(3 << 20) == [1 << 20..<(1 << 20) + 65536])
    }
  }
}
