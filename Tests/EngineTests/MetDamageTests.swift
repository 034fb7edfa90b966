import BlockTesting
import Engine
import EventLoops
import Foundation
import Locks
import Model
import ModelTesting
import Testing

/// What readers of a backup meet whose files changed after they were written, and what the service is told.
struct MetDamageTests {
  private static let grain = 65536

  /// Has the engine's damages collected.
  private static func damages(_ test: TestEngine) -> Lock<[BackupDamage]> {
    let told = Lock<[BackupDamage]>([])
    test.engine.onBackupDamage { damage in told.withLock { $0.append(damage) } }
    return told
  }

  /// A full of noise, and increments of which each changes one grain of its own: grain 10 × its number.
  private static func history(_ test: TestEngine, increments: Int) async throws -> RawHistory {
    var history = try RawHistory(test, byteCount: 4 << 20)
    var random = SeededRandom(seed: 7)
    let noise = Data(random.bytes(4 << 20))
    try history.change { $0 = noise }
    try await history.backUp(.full, .none)
    for number in 1...increments {
      let marker = Data(random.bytes(grain))
      try history.change { $0.replaceSubrange(10 * number * grain..<(10 * number + 1) * grain, with: marker) }
      try await history.backUp(.incremental, .none)
    }
    return history
  }

  /// Changes a byte of the guest's grain in the file of the point.
  private static func damage(_ point: RawHistory.Point, grain number: Int) throws {
    let path = point.place.fullPath(.data)
    let sample = point.bytes[number * grain + 4096..<number * grain + 8192]
    let place = try #require(try SampleImage.bytes(path).range(of: sample))
    try SampleImage.damage(path, at: UInt64(place.lowerBound + 17))
  }

  @Test(.eachToolVersion, arguments: TestEngine.backends)
  func flippedByteIsAnErrorToItsReadersAlone(_ backend: IOBackend) async throws {
    try await withEngine(backend: backend) { test in
      let told = Self.damages(test)
      let history = try await Self.history(test, increments: 2)
      let order = test.order("point", .backup(history.points[2].place))
      try await test.engine.export(order)
      let uri = test.uri(order)
      let copy = test.root + "/copy.raw"
      try await Tool.runAside("nbdcopy", [uri, copy])
      #expect(try SampleImage.bytes(copy) == history.points[2].bytes)
      #expect(told.withLock { $0.isEmpty })
      try await test.engine.withdraw(order.export, .safe)

      try Self.damage(history.points[0], grain: 33)
      try await test.engine.export(order)
      try await Tool.runAside("nbdcopy", [uri, copy], expecting: [1])
      try await Tool.runAside("qemu-img", ["convert", "-f", "raw", "-O", "raw", uri, copy], expecting: [1])
      let read = try await Tool.runAside(
        "qemu-io", ["-r", "-f", "raw", "-c", "read \(33 * Self.grain + 512) 512", uri], expecting: [0, 1])
      #expect(read.contains("Input/output error"), "\(read)")
      for range in ["0 \(33 * Self.grain)", "\(34 * Self.grain) \((64 - 34) * Self.grain)"] {
        let read = try await Tool.runAside("qemu-io", ["-r", "-f", "raw", "-c", "read \(range)", uri])
        #expect(!read.contains("rror"), "\(read)")
      }
      try await eventually("the service is told") { told.withLock { !$0.isEmpty } }
      let damages = told.withLock { $0 }
      #expect(damages.count == 1)
      #expect(damages[0].backup == history.points[0].place.backup, "the one whose file it is")
      #expect(damages[0].detail.contains(history.points[0].place.fullPath(.data)), "\(damages)")
      #expect(damages[0].detail.contains("[2162688, 2228224)") && damages[0].detail.contains("'point'"), "\(damages)")
    }
  }

  /// Whichever file it is in: the backup is told that has the file, however deep it lies.
  @Test func damageIsOfTheLowestBackupThatIsWrong() async throws {
    try await withEngine { test in
      let told = Self.damages(test)
      let history = try await Self.history(test, increments: 5)
      for (number, damaged) in [(0, 1), (30, 3), (50, 5)] {
        try Self.damage(history.points[damaged == 1 ? 0 : damaged], grain: number)
        let order = test.order("point", .backup(history.points[5].place))
        try await test.engine.export(order)
        let before = told.withLock { $0.count }
        let read = try await Tool.runAside(
          "qemu-io", ["-r", "-f", "raw", "-c", "read \(number * Self.grain) 4k", test.uri(order)], expecting: [0, 1])
        #expect(read.contains("Input/output error"), "\(read)")
        try await eventually("the service is told") { told.withLock { $0.count > before } }
        let origin = history.points[damaged == 1 ? 0 : damaged].place.backup
        #expect(told.withLock { $0.last?.backup } == origin, "grain \(number): \(told.withLock { $0 })")
        try await test.engine.withdraw(order.export, .hard)
      }
    }
  }

  /// A backup below whose hashes are wrong, and what nothing can be told of, is found when the export is opened or read.
  @Test func damagedHashesBelowAreFoundByTheReader() async throws {
    try await withEngine { test in
      let told = Self.damages(test)
      let history = try await Self.history(test, increments: 2)
      // The one page of leaves is each file's own.
      for (damaged, exported) in [(2, 2), (0, 0)] {
        let path = history.points[damaged].place.fullPath(.hashes)
        try SampleImage.damage(path, at: 4096 + 5)
        let order = test.order("point", .backup(history.points[exported].place))
        try await test.engine.export(order)
        let before = told.withLock { $0.count }
        let read = try await Tool.runAside(
          "qemu-io", ["-r", "-f", "raw", "-c", "read 0 4k", test.uri(order)], expecting: [0, 1])
        #expect(read.contains("Input/output error"), "\(read)")
        try await eventually("the service is told") { told.withLock { $0.count > before } }
        #expect(told.withLock { $0.last?.backup } == history.points[damaged].place.backup)
        #expect(told.withLock { $0.last?.detail.contains(path) } == true, "\(told.withLock { $0 })")
        try await test.engine.withdraw(order.export, .hard)
      }
    }
  }

  @Test func restoreThatMeetsDamageTellsWhoseItIs() async throws {
    try await withEngine { test in
      let told = Self.damages(test)
      let history = try await Self.history(test, increments: 3)
      let point = history.points[3]
      func restore() async -> ProblemCode? {
        await code { try await test.restore(point.place, to: test.images + "/back.raw", .raw) }
      }
      try Self.damage(history.points[1], grain: 10)
      #expect(await restore() == .backupCorrupt)
      try await eventually("the service is told") { told.withLock { $0.count == 1 } }
      #expect(told.withLock { $0[0].backup } == history.points[1].place.backup)
      #expect(told.withLock { $0[0].detail.contains("restore job") })
      // Found when it is opened, too.
      try FileManager.default.removeItem(atPath: history.points[2].place.fullPath(.data))
      #expect(await restore() == .backupCorrupt)
      try await eventually("the service is told") { told.withLock { $0.count == 2 } }
      #expect(told.withLock { $0[1].backup } == history.points[2].place.backup)
    }
  }

  @Test func backupWithoutItsHashesIsNotServed() async throws {
    try await withEngine { test in
      let told = Self.damages(test)
      let history = try await Self.history(test, increments: 1)
      try FileManager.default.removeItem(atPath: history.points[0].place.fullPath(.hashes))
      let order = test.order("point", .backup(history.points[0].place))
      #expect(await code { try await test.engine.export(order) } == .backupCorrupt)
      try await eventually("the service is told") { told.withLock { !$0.isEmpty } }
      #expect(told.withLock { $0[0].backup } == history.points[0].place.backup)
      #expect(test.engine.activity(of: order.export) == nil)
    }
  }
}
