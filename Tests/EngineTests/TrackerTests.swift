import BlockTesting
import Engine
import Foundation
import Glibc
import Model
import ModelTesting
import Repositories
import Testing

/// What changed is told by a bitmap in the image, where it can be trusted: each increment holds what a comparison of
/// everything finds, and says why where there was one.
struct TrackerTests {
  @Test(.eachToolVersion) func theBitmapTellsWhatChangedWhoeverWrites() async throws {
    try await withEngine { test in
      var history = try TrackedHistory(test)
      #expect(try await history.backUp(.full).fallback == nil)
      let names = try await history.bitmapNames
      #expect(names.count == 1 && names[0].hasPrefix("cobweb.\(test.repository.id.description.lowercased())."))
      try history.write("write -P 7 1M 4k", "write -z 2M 64k")
      let first = try await history.backUp(.incremental)
      #expect(
        first.kind == .incremental && first.fallback == nil && first.parent?.backup == history.points[0].place.backup)
      #expect(history.points[1].receipt.dirtyBytes <= 2 * 65536)
      try await history.expectNothingMissed("qemu-io")
      // Each checkpoint has a bitmap of its own, in the place of the one before.
      let moved = try await history.bitmapNames
      #expect(moved.count == 1 && moved != names)
      try await history.writeAttached("write -P 9 3M 100k", "discard 1M 64k", "write -P 3 7M 1k")
      #expect(try await history.backUp(.incremental, .none).fallback == nil)
      try await history.expectNothingMissed("an export of ours")
      #expect(try await history.backUp(.incremental).fallback == nil)
      #expect(history.points[3].receipt.dirtyBytes == 0)
      try history.write("write -P 1 5M 1M")
      let differential = try await history.backUp(.differential)
      #expect(differential.fallback == nil && differential.parent?.backup == history.points[0].place.backup)
      try await history.expectNothingMissed("a differential")
      try Tool.run("qemu-img", "resize", "-q", "-f", "qcow2", history.path, "9M")
      try history.write("write -P 4 8900k 64k")
      #expect(try await history.backUp(.incremental).fallback == nil)
      try await history.expectNothingMissed("growth", all: true)
    }
  }

  /// Two tools, each with a line of its own: neither sees what the other one does.
  @Test(.eachToolVersion) func trackersDoNotBreakEachOthersChains() async throws {
    try await withEngine { test in
      var history = try TrackedHistory(test)
      let second = try #require(TrackerName("second-tool"))
      let (first, other) = (try await history.backUp(.full), try await history.backUp(.auto, tracker: second))
      #expect(other.kind == .full && other.chain != first.chain && other.fallback == nil)
      try history.write("write -P 7 1M 64k")
      let increment = try await history.backUp(.incremental)
      #expect(increment.chain == first.chain && increment.fallback == nil)
      #expect(history.points[2].receipt.dirtyBytes == 65536)
      try history.write("write -P 8 2M 64k")
      // What changed since its own last one: both.
      let otherIncrement = try await history.backUp(.incremental, tracker: second)
      #expect(otherIncrement.chain == other.chain && otherIncrement.fallback == nil && otherIncrement.sequence == 1)
      #expect(history.points[3].receipt.dirtyBytes == 2 * 65536)
      #expect(try await history.backUp(.differential).fallback == nil)
      #expect(history.points[4].receipt.dirtyBytes == 2 * 65536)
      #expect(try await history.backUp(.auto, tracker: second).parent?.backup == history.points[3].place.backup)
      #expect(try await history.bitmapNames.count == 2)
      try await history.expectNothingMissed("two lines", all: true)
    }
  }

  /// Where the bitmap can't be trusted everything is compared, and the backup says why.
  @Test(.eachToolVersion, arguments: Mishap.allCases) func whatCannotBeTrustedIsCompared(_ mishap: Mishap) async throws
  {
    try await withEngine { test in
      var history = try TrackedHistory(test)
      _ = try await history.backUp(.full)
      try history.write("write -P 7 1M 128k")
      _ = try await history.backUp(.incremental)
      try history.write("write -P 8 4M 128k")
      let name = try await history.bitmapNames[0]
      let (path, aside) = (history.path, test.root + "/aside")
      switch mishap {
      case .cleared: try Tool.run("qemu-img", "bitmap", "--clear", path, name)
      case .disabled: try Tool.run("qemu-img", "bitmap", "--disable", path, name)
      case .removed: try Tool.run("qemu-img", "bitmap", "--remove", path, name)
      case .notRecorded:
        // As a program writes that knows no bitmaps: the autoclear bit is gone (qcow2.txt, "autoclear_features").
        try history.write("write -P 6 3M 128k")
        let file = try #require(FileHandle(forUpdatingAtPath: path))
        try file.seek(toOffset: 88)
        try file.write(contentsOf: [UInt8](repeating: 0, count: 8))
        try file.close()
      case .killed:
        try await history.writeAttached("write -P 5 2M 128k", "flush") {
          try FileManager.default.copyItem(atPath: path, toPath: aside)
        }
        try FileManager.default.removeItem(atPath: path)
        try FileManager.default.moveItem(atPath: aside, toPath: path)
      case .cutAndGrown:
        try Tool.run("qemu-img", "resize", "-q", "--shrink", "-f", "qcow2", path, "4M")
        try Tool.run("qemu-img", "resize", "-q", "-f", "qcow2", path, "8M")
      case .shrunk: try Tool.run("qemu-img", "resize", "-q", "--shrink", "-f", "qcow2", path, "4M")
      }
      let plan = try await history.backUp(.incremental)
      #expect(plan.kind == .incremental && plan.fallback == .init(to: .hash, reason: mishap.reason), "\(plan.reason)")
      // Nothing trusts what the bitmaps of such a directory name: their clusters are leaks.
      if [.notRecorded, .killed].contains(mishap) { try history.repairLeaks() }
      try await history.expectNothingMissed("\(mishap)")
      // And the next one is told by a bitmap again.
      try history.write("write -P 2 64k 64k")
      #expect(try await history.backUp(.incremental).fallback == nil)
      try await history.expectNothingMissed("\(mishap), and after it", all: true)
    }
  }

  enum Mishap: CaseIterable {
    case cleared, disabled, removed, notRecorded, killed, cutAndGrown, shrunk

    var reason: FallbackReason {
      switch self {
      case .cleared, .disabled, .cutAndGrown: .trackingLost
      case .removed: .bitmapMissing
      case .notRecorded: .bitmapInconsistent
      case .killed: .uncleanStop
      case .shrunk: .sizeChanged
      }
    }
  }

  /// A file put back from before has its bitmap from before: the backup that it counts from is built on.
  @Test func anImagePutBackGoesOnFromItsOwnCheckpoint() async throws {
    try await withEngine { test in
      var history = try TrackedHistory(test)
      _ = try await history.backUp(.full)
      try FileManager.default.copyItem(atPath: history.path, toPath: test.root + "/aside")
      try history.write("write -P 7 1M 128k")
      _ = try await history.backUp(.incremental)
      try FileManager.default.removeItem(atPath: history.path)
      try FileManager.default.copyItem(atPath: test.root + "/aside", toPath: history.path)
      try history.write("write -P 8 2M 4k")
      let plan = try await history.backUp(.incremental)
      #expect(plan.fallback == nil && plan.parent?.backup == history.points[0].place.backup && plan.sequence == 2)
      try await history.expectNothingMissed("put back", all: true)
    }
  }

  /// Somebody reads the image, so that no bitmap can be stored: the backup is complete, and what was recorded stays.
  @Test(.eachToolVersion) func aCheckpointThatCannotBeSetLeavesTheOneBefore() async throws {
    try await withEngine { test in
      var history = try TrackedHistory(test)
      func backUpBesideAReader(_ kind: RequestedBackupKind) async throws -> BackupPlan {
        let reader = try await PeerProcess("qemu-io", ["-r", "-f", "qcow2", history.path])
        try await eventually("the reader holds the image") {
          try await test.engine.inspect(history.location).locks.contains { $0.held }
        }
        let plan = try await history.backUp(kind)
        reader.stop()
        return plan
      }
      _ = try await backUpBesideAReader(.full)
      #expect(try await history.bitmapNames == [])
      try history.write("write -P 7 1M 128k")
      #expect(try await history.backUp(.incremental).fallback == .init(to: .hash, reason: .bitmapMissing))
      try await history.expectNothingMissed("no bitmap")
      let names = try await history.bitmapNames
      try history.write("write -P 8 2M 64k")
      #expect(try await backUpBesideAReader(.incremental).fallback == nil)
      #expect(try await history.bitmapNames == names)
      try history.write("write -P 9 3M 64k")
      // It goes by the bitmap before, and so builds on the backup before.
      let plan = try await history.backUp(.incremental)
      #expect(plan.fallback == nil && plan.parent?.backup == history.points[1].place.backup)
      try await history.expectNothingMissed("the bitmap before", all: true)
    }
  }

  /// The times of a block device don't tell that somebody wrote to it: it has no tracker, unless its owner promises that
  /// nobody does.
  @Test(arguments: [false, true]) func aDeviceIsComparedWholeUnlessItIsExclusive(_ isExclusive: Bool) async throws {
    guard geteuid() == 0 else { return print("aDeviceIsComparedWhole: NOT TESTED, needs root for a loop device") }
    let root = NSTemporaryDirectory() + "cobweb-engine-\(ULID())"
    defer { try? FileManager.default.removeItem(atPath: root) }
    try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
    try Tool.run("qemu-img", "create", "-q", "-f", "qcow2", root + "/disk", "4M")
    try Tool.run("truncate", "--size", "8M", root + "/disk")
    guard let found = try? Tool.run("losetup", "--find", "--show", root + "/disk").split(separator: "\n").first else {
      return print("aDeviceIsComparedWhole: NOT TESTED, no loop device to be had")
    }
    let device = String(found)
    defer { _ = try? Tool.run("losetup", "--detach", device) }
    try await withEngine(root: root, devices: [device]) { test in
      let location = ImageLocation(source: .device(path: device), format: .qcow2, isExclusive: isExclusive)
      var history = TrackedHistory(test, of: location)
      _ = try await history.backUp(.full)
      for offset in 1...2 {
        try await history.writeAttached("write -P 5 \(offset)M 64k")
        let plan = try await history.backUp(.incremental)
        #expect(plan.fallback == (isExclusive ? nil : .init(to: .hash, reason: .bitmapMissing)), "\(plan.reason)")
        try await history.expectNothingMissed("a device")
      }
      let inspection = try await test.engine.inspect(location)
      #expect(inspection.bitmaps.isEmpty)
      #expect(inspection.sidecars.map(\.inconsistent) == (isExclusive ? [false] : []))
      guard isExclusive else { return }
      // Once the promise was taken back, and the device was written to, nothing of before counts.
      let shared = TrackedHistory(
        test, of: ImageLocation(source: location.source, format: .qcow2), image: history.image, history.points)
      try await shared.writeAttached("write -P 6 3M 64k")
      let plan = try await history.backUp(.incremental)
      #expect(plan.fallback == .init(to: .hash, reason: .trackingLost), "\(plan.reason)")
      try await history.expectNothingMissed("a device that was shared")
    }
  }

  /// A write of 4 KiB costs 4 KiB, and not the grain or the cluster around it.
  @Test(arguments: [Compression.none, .zstd]) func smallWritesStoreLittle(_ compression: Compression) async throws {
    try await withEngine { test in
      var history = try TrackedHistory(test, size: "64M")
      try history.write("write -P 3 0 64M")
      _ = try await history.backUp(.full, compression)
      let writes = 128
      func change(_ pattern: Int) throws {
        let noise = test.root + "/noise"
        try SampleImage.raw(at: noise, byteCount: 4096, seed: UInt64(pattern))
        try Tool.run(
          "qemu-io",
          ["-f", "qcow2"]
            + (0..<writes).flatMap { ["-c", "write -q -s \(noise) \($0 * 512 + pattern * 4)k 4k"] } + [history.path])
      }
      for round in 1...2 {
        try change(round)
        let plan = try await history.backUp(.incremental, compression)
        #expect(plan.fallback == nil)
        let receipt = history.points[round].receipt
        #expect((writes * 4096...(writes + 4) * 4096).contains(Int(receipt.dirtyBytes)))
        #expect(receipt.storedSize < 2 * receipt.dirtyBytes, "\(receipt.storedSize) for \(receipt.dirtyBytes)")
      }
      // Where nearly all of a cluster has changed it is compressed whole.
      try history.write("write -P 5 8M 1020k")
      _ = try await history.backUp(.incremental, compression)
      if compression == .zstd { #expect(history.points[3].receipt.storedSize < 400 << 10) }
      // So does what holds all of them.
      _ = try await history.backUp(.differential, compression)
      let all = UInt64(2 * writes * 4096 + 1020 * 1024)
      #expect(history.points[4].receipt.dirtyBytes <= all + 4 * 65536)
      try await history.expectNothingMissed("small writes", all: true)
    }
  }

  /// A change that no bitmap has is found, if a grain with it is looked at: the backup fails, and the next compares all.
  @Test func aBitmapThatMissedAChangeIsFoundOut() async throws {
    try await withEngine(sampledCheck: 1) { test in
      var history = try TrackedHistory(test)
      _ = try await history.backUp(.full)
      try history.write("write -P 7 1M 128k")
      let bitmap = try await history.bitmapNames[0]
      // Written as by a program that records nothing, and leaves the bits that vouch for bitmaps: its clusters are changed
      // in the file itself.
      let map = try Tool.run("qemu-img", "map", "--output=json", "-f", "qcow2", history.path)
      let extents = try #require(try JSONSerialization.jsonObject(with: Data(map.utf8)) as? [[String: Any]])
      let data = try #require(extents.first { $0["data"] as? Bool == true && ($0["start"] as? Int ?? 0) < 1 << 20 })
      let file = try #require(FileHandle(forUpdatingAtPath: history.path))
      try file.seek(toOffset: UInt64(data["offset"] as? Int ?? 0))
      try file.write(contentsOf: [UInt8](repeating: 0xA5, count: 512))
      try file.close()
      #expect(await code { _ = try await history.backUp(.incremental) } == .trackingLost)
      #expect(try await history.bitmapNames != [bitmap])
      let plan = try await history.backUp(.incremental)
      #expect(plan.fallback == .init(to: .hash, reason: .sampledCheckFailed), "\(plan.reason)")
      try await history.expectNothingMissed("found out")
      #expect(try await history.backUp(.incremental).fallback == nil)
    }
  }

  @Test func aBackupThatFailsKeepsWhatWasRecorded() async throws {
    try await withEngine { test in
      var history = try TrackedHistory(test)
      _ = try await history.backUp(.full)
      try history.write("write -P 7 1M 128k")
      let order = test.order(history.image, kind: .incremental)
      let control = RecordingJobControl()
      _ = try await test.engine.begin(GroupOrder([order]), control: control)
      control.cancel()
      await #expect(throws: CancellationError.self) { try await test.engine.store(order.backup, control: control) }
      try history.write("write -P 8 3M 128k")
      #expect(try await history.backUp(.incremental).fallback == nil)
      #expect((256 << 10...(256 << 10) + 4 * 4096).contains(history.points[1].receipt.dirtyBytes))
      try await history.expectNothingMissed("after a failure", all: true)
    }
  }

  /// Of a repository each: neither tool breaks the other's chain. What others record stays theirs.
  @Test(.eachToolVersion) func othersBitmapsAreRecordedAndKept() async throws {
    try await withEngine { test in
      var history = try TrackedHistory(test)
      try Tool.run("qemu-img", "bitmap", "--add", "-g", "64k", history.path, "mine")
      try Tool.run("qemu-img", "bitmap", "--add", "-g", "64k", "--disable", history.path, "resting")
      _ = try await history.backUp(.full)
      try await history.writeAttached("write -P 1 1M 64k", "write -P 1 5M 1k")
      _ = try await history.backUp(.incremental)
      #expect(Set(try await history.bitmapNames).isSuperset(of: ["mine", "resting"]))
      func dirty(_ name: String) throws -> [String] {
        let map = try Tool.run(
          "nbdinfo", "--map=qemu:dirty-bitmap:\(name)", "--", "[", "qemu-nbd", "-r", "-f", "qcow2", "-B", name,
          history.path, "]")
        return map.split(separator: "\n").map(String.init).filter { $0.contains("dirty") }
          .map { $0.split(separator: " ").prefix(2).joined(separator: " ") }
      }
      #expect(try dirty("mine") == ["1048576 65536", "5242880 65536"])
      #expect(try dirty("resting") == [])
      try Tool.judge("check", "-q", "-f", "qcow2", history.path)
    }
  }

  /// Seeded: any writer, kind, mishap or none, in any order.
  @Test(.eachToolVersion, arguments: 1...2) func nothingIsMissedInAStory(seed: UInt64) async throws {
    let effort = ProcessInfo.processInfo.environment["TEST_EFFORT"].flatMap(Int.init) ?? 1
    try await withEngine { test in
      var random = SeededRandom(seed: seed)
      var history = try TrackedHistory(test)
      for step in 0..<5 + 3 * effort {
        let commands = (0..<random.below(4)).map { _ in
          let offset = random.below(7 << 20)
          let length = 1 + random.below(300_000)
          return [
            "write -P \(1 + random.below(250)) \(offset) \(length)", "write -z \(offset) \(length)",
            "discard \(offset) \(length)",
          ][random.below(3)]
        }
        if random.oneIn(2) {
          for command in commands { try history.write(command) }
        } else {
          for command in commands { try await history.writeAttached(command) }
        }
        let kinds: [RequestedBackupKind] = [.incremental, .incremental, .differential, .auto, .full, .copy]
        let plan = try await history.backUp(kinds[random.below(kinds.count)], random.oneIn(2) ? .zstd : .none)
        #expect(plan.fallback == nil || plan.fallback?.reason == .noParent, "\(random), step \(step): \(plan.reason)")
        try await history.expectNothingMissed("\(random), step \(step)")
      }
      try await history.expectNothingMissed("\(random)", all: true)
    }
  }
}
