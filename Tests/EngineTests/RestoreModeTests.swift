import BlockTesting
import Foundation
import Model
import ModelTesting
import Repositories
import Testing

@testable import Engine

/// Restoring over an image only what differs from it.
@Suite struct RestoreModeTests {
  private static let grain = 65536

  private static func restore(
    _ test: TestEngine, _ place: StoredBackupLocation, over path: String, _ mode: RestoreMode
  ) async throws -> RestoreReport {
    try await test.engine.restore(
      RestoreOrder(
        backup: place, target: .image(ImageLocation(source: .file(path: path), format: .raw)), mode: mode),
      control: RecordingJobControl())
  }

  /// Whatever the image holds where: data over zeroes, zeroes over data, holes, and the short grain at the end.
  @Test(arguments: 1...6) func whatDiffersIsWrittenAndNothingElse(seed: UInt64) async throws {
    try await withEngine { test in
      let byteCount = 64 * Self.grain + 4608
      var history = try RawHistory(test, byteCount: byteCount, seed: seed)
      try history.change { $0.resetBytes(in: 8 * Self.grain..<20 * Self.grain) }
      try await history.backUp(.full)
      var random = SeededRandom(seed: seed)
      var different: Set<Int> = []
      let before = history.bytes
      try history.change { bytes in
        for _ in 0..<Int.random(in: 0...12, using: &random) {
          let offset = Int.random(in: 0..<byteCount, using: &random)
          let end = min(byteCount, offset + Int.random(in: 1...3 * Self.grain, using: &random))
          if Bool.random(using: &random) { bytes.resetBytes(in: offset..<end) } else { bytes[offset] ^= 0x5A }
        }
        for leaf in 0...byteCount / Self.grain {
          let part = leaf * Self.grain..<min(byteCount, (leaf + 1) * Self.grain)
          if bytes[part] != before[part] { different.insert(leaf) }
        }
      }
      try await history.backUp(.incremental)
      let report = try await Self.restore(test, history.points[0].place, over: history.path, .changed)
      #expect(try SampleImage.bytes(history.path) == before, "seed \(seed)")
      #expect(report.mode == .changed && report.writtenBytes <= UInt64(different.count * Self.grain), "seed \(seed)")
      // Once more: nothing is left to be written.
      #expect(try await Self.restore(test, history.points[0].place, over: history.path, .changed).writtenBytes == 0)
      // And an increment, whose hashes are partly its parent's.
      _ = try await Self.restore(test, history.points[1].place, over: history.path, .changed)
      #expect(try SampleImage.bytes(history.path) == history.points[1].bytes, "seed \(seed)")
    }
  }

  @Test func autoTakesWhatReadsLess() async throws {
    try await withEngine { test in
      var history = try RawHistory(test, byteCount: 80 * Self.grain)
      try history.change { for index in $0.indices { $0[index] = UInt8(truncatingIfNeeded: index / 256 + 1) | 1 } }
      try await history.backUp(.full)
      let place = history.points[0].place
      let target = RestoreOrder.Target.image(ImageLocation(source: .file(path: history.path), format: .raw))
      func choice(_ mode: RestoreMode) async throws -> RestoreChoice {
        try await test.engine.restoreChoice(RestoreOrder(backup: place, target: target, mode: mode))
      }
      #expect(try await choice(.auto) == RestoreChoice(mode: .changed, why: Self.why(64)))
      #expect(try await choice(.all).mode == .all)
      #expect(try await choice(.changed).mode == .changed)
      try history.change { $0[3] ^= 1 }
      let report = try await Self.restore(test, place, over: history.path, .auto)
      #expect(report.mode == .changed && report.writtenBytes == UInt64(Self.grain))
      try history.change { $0.resetBytes(in: 0..<$0.count) }
      #expect(try await choice(.auto) == RestoreChoice(mode: .all, why: Self.why(0)))
      let all = try await Self.restore(test, place, over: history.path, .auto)
      #expect(all.mode == .all && all.writtenBytes == UInt64(80 * Self.grain))
      #expect(try SampleImage.bytes(history.path) == history.points[0].bytes)
    }
  }

  private static func why(_ alike: Int) -> String {
    "\(alike) of 64 grains that were compared are in the image already"
  }

  /// Hashes decide what is left out: damaged ones end it before the first byte is written.
  @Test func damagedHashesLeaveTheImageAlone() async throws {
    try await withEngine { test in
      var history = try RawHistory(test, byteCount: 300 * Self.grain)
      try await history.backUp(.full)
      try history.change { $0[9] ^= 1 }
      let hashes = try #require(FileHandle(forUpdatingAtPath: history.points[0].place.fullPath(.hashes)))
      try hashes.seek(toOffset: 4096 + 40)
      try hashes.write(contentsOf: Data([0xA5, 0x5A, 0xA5]))
      let refusal = await #expect(throws: DomainError.self) {
        try await Self.restore(test, history.points[0].place, over: history.path, .changed)
      }
      #expect(refusal?.code == .backupCorrupt && refusal?.detail.contains(".hashes") == true)
      #expect(try SampleImage.bytes(history.path) == history.bytes)
    }
  }
}
