import BlockTesting
import Foundation
import Glibc
import Model
import ModelTesting
import Repositories
import Testing

@testable import Engine

/// Images that have no place for a tracker in themselves: what is written to them here is recorded beside the server's
/// state, and what anything else may have written is compared.
struct SidecarTests {
  enum Kind: CaseIterable {
    case raw, oldQcow2, dataFile, overlay

    func make(_ test: TestEngine) throws -> ImageLocation {
      let (raw, path) = (test.images + "/vm.raw", test.images + "/vm.qcow2")
      try SampleImage.raw(at: raw, byteCount: 8 << 20, seed: 3)
      switch self {
      case .raw: return ImageLocation(source: .file(path: raw), format: .raw)
      case .oldQcow2: try Tool.run("qemu-img", "convert", "-O", "qcow2", "-o", "compat=0.10", raw, path)
      case .dataFile:
        try Tool.run("qemu-img", "convert", "-O", "qcow2", "-o", "data_file=\(test.images)/vm.data", raw, path)
      case .overlay: try Tool.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", raw, "-F", "raw", path)
      }
      return ImageLocation(source: .file(path: path), format: .qcow2)
    }
  }

  @Test(.eachToolVersion, arguments: Kind.allCases) func aSidecarTellsWhatChanged(_ kind: Kind) async throws {
    try await withEngine { test in
      var history = TrackedHistory(test, of: try kind.make(test))
      #expect(try await history.backUp(.full).fallback == nil)
      let unchanged = try await history.backUp(.incremental)
      #expect(unchanged.kind == .incremental && unchanged.fallback == nil, "\(unchanged.reason)")
      #expect(history.points[1].receipt.dirtyBytes == 0)
      try await history.writeAttached("write -P 9 3M 100k", "discard 1M 64k", "write -P 3 7M 1k")
      let changed = try await history.backUp(.incremental, .none)
      #expect(changed.fallback == nil && changed.parent?.backup == history.points[1].place.backup, "\(changed.reason)")
      #expect((100 << 10...6 * 65536).contains(Int(history.points[2].receipt.dirtyBytes)))
      try await history.expectNothingMissed("an export of ours")
      // What was recorded outlives the server, and more is added to it.
      try await history.writeAttached("write -P 4 5M 4k")
      let other = try await TestEngine(root: test.root, writer: test.writer, repository: test.repository)
      var later = history.again(other)
      try await later.writeAttached("write -P 6 6M 4k")
      let differential = try await later.backUp(.differential)
      #expect(differential.fallback == nil, "\(differential.reason)")
      #expect(differential.parent?.backup == later.points[0].place.backup)
      #expect(try await later.backUp(.incremental).fallback == nil)
      #expect(later.points[4].receipt.dirtyBytes == 0)
      try await later.expectNothingMissed("two servers", all: true)
      #expect(try await later.bitmapNames.isEmpty, "the image has none in itself")
      await other.engine.shutDown()
    }
  }

  enum Mishap: CaseIterable {
    case oneByte, grown, replaced, rewritten, copiedState, olderState, damagedState, emptyState, removedState

    var reason: FallbackReason {
      switch self {
      case .oneByte, .rewritten, .copiedState, .olderState, .damagedState, .emptyState: .trackingLost
      case .grown, .replaced: .identityChanged
      case .removedState: .bitmapMissing
      }
    }
  }

  @Test(arguments: Mishap.allCases) func whatSomethingElseMayHaveChangedIsCompared(_ mishap: Mishap) async throws {
    try await withEngine { test in
      var history = TrackedHistory(test, of: try Kind.raw.make(test))
      _ = try await history.backUp(.full)
      try await history.writeAttached("write -P 7 1M 128k")
      let (path, state, aside) = (history.path, test.root + "/tracking/sidecars", test.root + "/aside")
      func sidecar() throws -> String { state + "/" + (try #require(TestEngine.files(beneath: state).first)) }
      if mishap == .olderState { try FileManager.default.copyItem(atPath: state, toPath: aside) }
      _ = try await history.backUp(.incremental)
      try await history.writeAttached("write -P 8 4M 128k")
      switch mishap {
      case .oneByte: try Self.changeOneByte(of: path, at: 5 << 20)
      case .grown: try Tool.run("truncate", "--size", "9M", path)
      case .replaced:
        try Tool.run("cp", "--preserve=all", path, aside)
        #expect(rename(aside, path) == 0)
      case .rewritten: try Tool.run("dd", "if=\(history.points[0].moment)", "of=\(path)", "bs=1M", "conv=notrunc")
      case .copiedState:
        try Tool.run("cp", "--archive", state, aside)
        try FileManager.default.removeItem(atPath: state)
        try FileManager.default.moveItem(atPath: aside, toPath: state)
      case .olderState:
        try FileManager.default.removeItem(atPath: state)
        try FileManager.default.moveItem(atPath: aside, toPath: state)
      case .damagedState: try SampleImage.damage(sidecar(), at: 60)
      case .emptyState: try Tool.run("truncate", "--size", "0", sidecar())
      case .removedState: try FileManager.default.removeItem(atPath: sidecar())
      }
      let plan = try await history.backUp(.incremental)
      #expect(plan.kind == .incremental && plan.fallback == .init(to: .hash, reason: mishap.reason), "\(plan.reason)")
      try await history.expectNothingMissed("\(mishap)")
      // And the next one is told by a sidecar again.
      try await history.writeAttached("write -P 2 64k 64k")
      let next = try await history.backUp(.incremental)
      #expect(next.fallback == nil, "\(next.reason)")
      try await history.expectNothingMissed("\(mishap), and after it", all: true)
    }
  }

  /// As a program does that hides what it does: the time of the data is put back.
  private static func changeOneByte(of path: String, at offset: off_t) throws {
    var status = stat()
    let file = open(path, O_RDWR)
    try #require(file >= 0 && fstat(file, &status) == 0)
    defer { close(file) }
    var byte: UInt8 = 0
    try #require(pread(file, &byte, 1, offset) == 1)
    byte ^= 1
    try #require(pwrite(file, &byte, 1, offset) == 1)
    try #require(futimens(file, [status.st_atim, status.st_mtim]) == 0)
  }

  /// What was changed while the image rested stays compared when it is attached in between, and says the same.
  @Test func aLossIsRememberedWhileTheImageIsWrittenTo() async throws {
    try await withEngine { test in
      var history = TrackedHistory(test, of: try Kind.raw.make(test))
      _ = try await history.backUp(.full)
      try Self.changeOneByte(of: history.path, at: 5 << 20)
      try await history.writeAttached("write -P 8 4M 128k")
      try await history.writeAttached("write -P 8 2M 128k")
      #expect(try await history.backUp(.incremental).fallback == .init(to: .hash, reason: .trackingLost))
      try await history.expectNothingMissed("a loss that is remembered")
    }
  }

  /// A store into mapped memory changes the times only with its page's first fault.
  @Test func aStoreThroughAnOldMappingIsSeen() async throws {
    try await withEngine { test in
      var history = TrackedHistory(test, of: try Kind.raw.make(test))
      let file = open(history.path, O_RDWR)
      try #require(file >= 0)
      defer { close(file) }
      let memory = try #require(mmap(nil, 8 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0))
      defer { munmap(memory, 8 << 20) }
      memory.storeBytes(of: 1, toByteOffset: 5 << 20, as: UInt8.self)
      _ = try await history.backUp(.full)
      memory.storeBytes(of: 2, toByteOffset: 5 << 20, as: UInt8.self)
      #expect(try await history.backUp(.incremental).fallback == .init(to: .hash, reason: .trackingLost))
      try await history.expectNothingMissed("a mapping")
    }
  }

  @Test(arguments: [false, true]) func whatAnImageStandsOnCounts(_ isAttached: Bool) async throws {
    try await withEngine { test in
      var history = TrackedHistory(test, of: try Kind.overlay.make(test))
      _ = try await history.backUp(.full)
      let below = test.images + "/vm.raw"
      if isAttached {
        // Beneath a guest: its image is one thing by then and another thing later.
        try await history.writeAttached("write -P 8 4M 128k") { try Self.changeOneByte(of: below, at: 5 << 20) }
        #expect(try await history.backUp(.incremental).fallback == .init(to: .hash, reason: .uncleanStop))
      } else {
        try Self.changeOneByte(of: below, at: 5 << 20)
        #expect(try await history.backUp(.incremental).fallback == .init(to: .hash, reason: .trackingLost))
      }
      try await history.expectNothingMissed("a backing file")
    }
  }

  @Test func trackersOfAnImageAreIndependentAndTakenAway() async throws {
    try await withEngine { test in
      var history = TrackedHistory(test, of: try Kind.raw.make(test))
      let second = try #require(TrackerName("second-tool"))
      _ = try await history.backUp(.full)
      _ = try await history.backUp(.auto, tracker: second)
      try await history.writeAttached("write -P 7 1M 64k")
      #expect(try await history.backUp(.incremental).fallback == nil)
      try await history.writeAttached("write -P 8 2M 64k")
      #expect(try await history.backUp(.incremental, tracker: second).fallback == nil)
      #expect(history.points[2].receipt.dirtyBytes == 65536 && history.points[3].receipt.dirtyBytes == 2 * 65536)
      try await history.expectNothingMissed("two lines", all: true)
      let removal = await test.engine.removeTracking(from: history.location, tracker: second)
      #expect(removal.removed.count == 1 && removal.left == [] && removal.failure == nil)
      #expect(
        try await history.backUp(.incremental, tracker: second).fallback == .init(to: .hash, reason: .bitmapMissing))
      #expect(try await history.backUp(.incremental).fallback == nil)
      #expect(await test.engine.removeTracking(from: history.location, tracker: nil).removed.count == 2)
      #expect(TestEngine.files(beneath: test.root + "/tracking") == [])
    }
  }

  /// The backup that a sidecar counts from is deleted: it counts from the parent, with what the backup had stored.
  @Test func aDeletedBackupsLineGoesOn() async throws {
    try await withEngine { test in
      var history = TrackedHistory(test, of: try Kind.raw.make(test))
      _ = try await history.backUp(.full)
      try await history.writeAttached("write -P 7 1M 64k")
      _ = try await history.backUp(.incremental)
      try await history.writeAttached("write -P 8 4M 64k")
      for isRehearsal in [true, false] {
        let outcome = await test.engine.returnCheckpoint(
          CheckpointReturn(
            backup: history.points[1].place, parent: history.points[0].place, image: history.location,
            tracker: .standard(of: test.repository.id), isRehearsal: isRehearsal))
        #expect(outcome == .returned)
      }
      try await test.engine.delete(history.points.removeLast().place, control: RecordingJobControl())
      let plan = try await history.backUp(.incremental)
      #expect(plan.fallback == nil && plan.parent?.backup == history.points[0].place.backup, "\(plan.reason)")
      #expect(history.points[1].receipt.dirtyBytes == 2 * 65536)
      try await history.expectNothingMissed("a deleted backup", all: true)
    }
  }
}
