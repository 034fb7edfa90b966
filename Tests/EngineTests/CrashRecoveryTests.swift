import BlockTesting
import Foundation
import Glibc
import Model
import ModelTesting
import Testing

/// After the server was killed while an image was open to be written, its next increment goes by what was recorded, if
/// nothing else can have changed the image; else it says why it compares.
struct CrashRecoveryTests {
  /// What the crash takes with it.
  enum Loss: CaseIterable {
    /// The process alone.
    case nothing
    /// What was in memory: the map.
    case memory
  }

  /// An image that was attached, written to, and left as a killed server leaves it, together with what it recorded.
  private struct Crash {
    let history: TrackedHistory
    var test: TestEngine { history.test }
    private var aside: String { test.root + "/aside" }

    /// Writes as a guest does, and ends as if the server had been killed after that: the image's bytes and the record's
    /// files are put back in their place, as the same files.
    func write(_ commands: String..., losing loss: Loss = .nothing) async throws {
      let files = FileManager.default
      try? files.removeItem(atPath: aside)
      try files.createDirectory(atPath: aside, withIntermediateDirectories: true)
      var kept: [(from: String, to: String)] = []
      let all = commands.flatMap { ["-c", $0] } + ["-c", "flush"]
      let id = ImageID()
      try await test.attach(history.location, as: id)
      let export = test.order("vm", .attachedImage(id), isReadOnly: false)
      try await test.engine.export(export)
      try await Tool.runAside("qemu-io", ["-f", "raw"] + all + [test.uri(export)])
      try files.copyItem(atPath: history.path, toPath: aside + "/image")
      for path in recordFiles where loss == .nothing || !isMap(path) {
        kept.append((path, aside + "/\(kept.count)"))
        guard link(path, kept[kept.count - 1].to) == 0 else { throw Tool.Failure(description: "link: \(errno)") }
      }
      #expect(kept.count == (loss == .nothing ? 3 : 2), "a log, a sidecar, a map: \(recordFiles)")
      try await test.engine.withdraw(export.export, .hard)
      try await test.engine.detach(id)
      #expect(recordFiles == [], "an image that was closed has no record")
      try putBack(aside + "/image")
      for file in kept { try files.moveItem(atPath: file.to, toPath: file.from) }
      // The crash is now, however long the detach took.
      if let map = recordFiles.first(where: isMap) {
        let handle = try #require(FileHandle(forUpdatingAtPath: map))
        defer { try? handle.close() }
        try handle.seek(toOffset: 48)
        try handle.write(contentsOf: withUnsafeBytes(of: Int64(time(nil))) { Data($0) })
      }
    }

    /// Gives the image these bytes, and keeps it the same file.
    func putBack(_ path: String) throws {
      let image = try #require(FileHandle(forWritingAtPath: history.path))
      defer { try? image.close() }
      let bytes = try #require(FileManager.default.contents(atPath: path))
      try image.truncate(atOffset: 0)
      try image.write(contentsOf: bytes)
    }

    private func isMap(_ path: String) -> Bool { path.hasPrefix(test.root + "/cobweb-") }

    var recordFiles: [String] {
      let state = TestEngine.files(beneath: test.root + "/tracking").map { test.root + "/tracking/" + $0 }
      let all = (try? FileManager.default.contentsOfDirectory(atPath: test.root)) ?? []
      return state + all.filter { $0.hasPrefix("cobweb-") }.map { test.root + "/" + $0 }
    }
  }

  @Test(.eachToolVersion, arguments: Loss.allCases)
  func theNextIncrementReadsOnlyWhatChanged(_ loss: Loss) async throws {
    try await withEngine { test in
      var history = try TrackedHistory(test)
      _ = try await history.backUp(.full)
      try await Crash(history: history).write("write -P 7 1M 8k", "discard 3M 64k", "write -z 5M 4k", losing: loss)
      let plan = try await history.backUp(.incremental)
      #expect(plan.kind == .incremental && plan.fallback == nil, "\(plan.reason)")
      try history.repairLeaks()
      try await history.expectNothingMissed("after a crash")
      // Twice in a row, with a backup neither before nor between.
      for offset in ["2M", "6M"] { try await Crash(history: history).write("write -P 9 \(offset) 4k", losing: loss) }
      #expect(try await history.backUp(.incremental).fallback == nil)
      try history.repairLeaks()
      try await history.expectNothingMissed("after two crashes")
      #expect(Crash(history: history).recordFiles == [])
      try await history.writeAttached("write -P 3 4M 4k")
      #expect(try await history.backUp(.incremental).fallback == nil)
      try history.repairLeaks()
      try await history.expectNothingMissed("and on", all: true)
      #expect(try await history.bitmapNames.contains("cobweb.witness"))
    }
  }

  /// What others' bitmaps missed is found as well: a bitmap that somebody asks QEMU for.
  @Test(.eachToolVersion) func othersBitmapsAreRecoveredToo() async throws {
    try await withEngine { test in
      var history = try TrackedHistory(test)
      _ = try await history.backUp(.full)
      try Tool.run("qemu-img", "bitmap", "--add", "-g", "64k", history.path, "mine")
      try Tool.run("qemu-img", "bitmap", "--add", "-g", "64k", "--disable", history.path, "resting")
      try history.write("write -P 1 64k 4k")
      try await Crash(history: history).write("write -P 7 1M 8k")
      #expect(try await history.backUp(.incremental).fallback == nil)
      for (name, dirty) in [("mine", ["65536 65536", "1048576 65536"]), ("resting", [])] {
        let map = try Tool.run(
          "nbdinfo", "--map=qemu:dirty-bitmap:\(name)", "--", "[", "qemu-nbd", "-r", "-f", "qcow2", "-B", name,
          history.path, "]")
        let found = map.split(separator: "\n").map(String.init).filter { $0.contains("dirty") }
          .map { $0.split(separator: " ").prefix(2).joined(separator: " ") }
        #expect(found == dirty, "\(name)")
      }
      try history.repairLeaks()
      try Tool.judge("check", "-q", "-f", "qcow2", history.path)
    }
  }

  enum Doubt: CaseIterable {
    case commit, reopenedToWrite, clearedByOthers, writtenByOthers, olderState, olderImage, replacedInPlace
    case anotherFile, copiedState, damagedLog, damagedSidecar, noState

    var reason: FallbackReason {
      switch self {
      case .anotherFile: .identityChanged
      // The record that the image names isn't there: nothing tells of more than that.
      case .noState, .olderState, .olderImage: .uncleanStop
      default: .trackingLost
      }
    }
  }

  /// Whatever else may have changed the image, or the record, between crash and recovery.
  @Test(.eachToolVersion, arguments: Doubt.allCases) func whatIsInDoubtIsCompared(_ doubt: Doubt) async throws {
    try await withEngine { test in
      var history = try TrackedHistory(test)
      _ = try await history.backUp(.full)
      try history.write("write -P 2 512k 4k")
      let crash = Crash(history: history)
      let (files, path) = (FileManager.default, history.path)
      let older = test.root + "/older"
      if doubt == .olderImage || doubt == .olderState {
        // A first time of being open, whose state is kept.
        try await crash.write("write -P 3 2M 4k")
        try files.copyItem(atPath: path, toPath: older + "-image")
        try files.copyItem(atPath: test.root + "/tracking", toPath: older)
      }
      try await crash.write("write -P 7 1M 8k")
      switch doubt {
      case .commit:
        try Tool.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", path, "-F", "qcow2", test.root + "/top")
        try Tool.run("qemu-io", "-f", "qcow2", "-c", "write -P 5 3M 4k", test.root + "/top")
        try Tool.run("qemu-img", "commit", "-q", test.root + "/top")
      case .reopenedToWrite:
        try Tool.run(
          "qemu-io", "-f", "qcow2", "-r", "-c", "read 0 4k", "-c", "reopen -w", "-c", "write -P 5 3M 4k", path)
      case .clearedByOthers:
        try Tool.run("qemu-img", "bitmap", "--clear", path, "cobweb.witness")
      case .writtenByOthers: try history.write("write -P 5 3M 4k")
      case .olderImage: try crash.putBack(older + "-image")
      case .replacedInPlace:
        // Later than what may have been in flight, and with the time that it had.
        let before = try files.attributesOfItem(atPath: path)[.modificationDate] as? Date
        try await Task.sleep(for: .seconds(4))
        try files.copyItem(atPath: path, toPath: older + "-image")
        try crash.putBack(older + "-image")
        try files.setAttributes([.modificationDate: try #require(before)], ofItemAtPath: path)
      case .olderState:
        for file in TestEngine.files(beneath: test.root + "/tracking") {
          try files.removeItem(atPath: test.root + "/tracking/" + file)
        }
        for file in TestEngine.files(beneath: older) {
          try files.copyItem(atPath: older + "/" + file, toPath: test.root + "/tracking/" + file)
        }
      case .anotherFile:
        try files.copyItem(atPath: path, toPath: path + ".copy")
        try files.removeItem(atPath: path)
        try files.moveItem(atPath: path + ".copy", toPath: path)
      case .copiedState:
        for file in crash.recordFiles where file.contains("/tracking/") {
          try files.copyItem(atPath: file, toPath: file + ".copy")
          try files.removeItem(atPath: file)
          try files.moveItem(atPath: file + ".copy", toPath: file)
        }
      case .damagedLog, .damagedSidecar:
        for file in crash.recordFiles
        where file.contains("/tracking/") && file.hasSuffix(".log") == (doubt == .damagedLog) {
          let handle = try #require(FileHandle(forUpdatingAtPath: file))
          for offset in doubt == .damagedLog ? [100, 12388] : [20] {
            try handle.seek(toOffset: UInt64(offset))
            try handle.write(contentsOf: [0xA5])
          }
          try handle.close()
        }
      case .noState: for file in crash.recordFiles { try files.removeItem(atPath: file) }
      }
      let plan = try await history.backUp(.incremental)
      #expect(plan.kind == .incremental && plan.fallback == .init(to: .hash, reason: doubt.reason), "\(plan.reason)")
      try history.repairLeaks()
      try await history.expectNothingMissed("\(doubt)")
      // The record of an image that was put back from before is nothing's: nothing names it any more.
      if doubt == .olderImage || doubt == .olderState {
        for file in crash.recordFiles { try files.removeItem(atPath: file) }
      }
      // And the next one is told by a bitmap again, also after another crash.
      try await crash.write("write -P 4 64k 4k")
      #expect(try await history.backUp(.incremental).fallback == nil)
      try history.repairLeaks()
      try await history.expectNothingMissed("\(doubt), and after it", all: true)
    }
  }

  /// An attach recovers as a backup does, and where it couldn't the next backup says why.
  @Test(.eachToolVersion) func anAttachRecovers() async throws {
    try await withEngine { test in
      var history = try TrackedHistory(test)
      _ = try await history.backUp(.full)
      let crash = Crash(history: history)
      try await crash.write("write -P 7 1M 8k")
      try await history.writeAttached("write -P 8 2M 4k")
      #expect(try await history.backUp(.incremental).fallback == nil)
      try history.repairLeaks()
      try await history.expectNothingMissed("an attach")
      try await crash.write("write -P 9 1M 8k")
      try history.write("write -P 5 3M 4k")
      try await history.writeAttached("write -P 8 2M 4k")
      #expect(try await history.backUp(.incremental).fallback == .init(to: .hash, reason: .trackingLost))
      try history.repairLeaks()
      try await history.expectNothingMissed("an attach that couldn't", all: true)
    }
  }

  /// So does a reconciliation, which tells of it before.
  @Test func aReconciliationRecovers() async throws {
    try await withEngine { test in
      var history = try TrackedHistory(test)
      _ = try await history.backUp(.full)
      try await Crash(history: history).write("write -P 7 1M 8k")
      let location = history.location
      var found = try await test.engine.tracking(of: location)
      #expect(found.awaitsRecovery && found.leftRecordCount == 0 && found.bitmaps.allSatisfy { $0.flaw != nil })
      try await test.engine.repairTracking(TrackingRepair(job: JobID(), image: location))
      found = try await test.engine.tracking(of: location)
      #expect(!found.awaitsRecovery && found.bitmaps.count == 1 && found.bitmaps[0].flaw == nil)
      #expect(try await history.backUp(.incremental).fallback == nil)
      try history.repairLeaks()
      try await history.expectNothingMissed("a reconciliation", all: true)
    }
  }
}
