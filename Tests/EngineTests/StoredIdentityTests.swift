import Foundation
import Model
import ModelTesting
import Repositories
import Testing

@testable import Engine

/// The data of a backup say whose they are: those of another one that take their place are found when they are opened.
@Suite struct StoredIdentityTests {
  private static func swapped(
    _ body: (TestEngine, TestEngine.Made, TestEngine.Made) async throws -> Void
  ) async throws {
    try await withEngine { test in
      var made: [TestEngine.Made] = []
      for name in ["a", "b"] as [ResourceName] {
        let path = "\(test.images)/\(name).raw"
        try SampleImage.raw(at: path, byteCount: 4 << 20, seed: UInt64(made.count + 1))
        made.append(try await test.backUp(test.record(name, path, .raw)))
      }
      try await body(test, made[0], made[1])
    }
  }

  private static func swap(_ first: StoredBackupLocation, _ second: StoredBackupLocation) throws {
    let (one, other, aside) = (first.fullPath(.data), second.fullPath(.data), first.fullPath(.data) + ".aside")
    for (from, to) in [(one, aside), (other, one), (aside, other)] {
      try FileManager.default.moveItem(atPath: from, toPath: to)
    }
  }

  @Test func dataOfAnotherBackupAreFoundBeforeAnythingIsRead() async throws {
    try await Self.swapped { test, first, second in
      try Self.swap(first.place, second.place)
      for made in [first, second] {
        let name = made.place.fullPath(.data)
        let path = try await test.engine.restorePath(to: made.place)
        #expect(path.findings.contains("\(name) is the data of another backup"), "\(path.findings)")
        let report = try await test.engine.verify(
          VerifyOrder(backup: made.place, level: .metadata), control: RecordingJobControl())
        #expect(report.findings.contains { $0.contains(name) })
        let refusal = await #expect(throws: DomainError.self) {
          try await test.restore(made.place, to: test.images + "/back", .raw)
        }
        #expect(refusal?.code == .backupCorrupt && refusal?.detail.contains(name) == true)
      }
      // Nothing is built on them.
      let next = try await test.backUp(test.order(first.order.image, .zstd, kind: .incremental))
      let scan = try await test.engine.scan(test.repository)
      let stored = try #require(scan.backups.first { $0.id == next.order.backup })
      #expect(stored.kind == .full && stored.fallbackReason == .parentMissing)
      try Self.swap(first.place, second.place)
      #expect(try await test.engine.restorePath(to: first.place).findingCount == 0)
    }
  }

  /// Those of an earlier version don't say whose they are.
  @Test func dataThatDoNotSayAreReadAsBefore() async throws {
    try await Self.swapped { test, first, _ in
      let path = first.place.fullPath(.data)
      var bytes = try Data(contentsOf: URL(fileURLWithPath: path))
      let place = try #require(bytes.range(of: Data([0x43, 0x77, 0x69, 0x64, 0, 0, 0, 16])))
      bytes.replaceSubrange(place.lowerBound..<place.lowerBound + 4, with: Data("none".utf8))
      try bytes.write(to: URL(fileURLWithPath: path))
      #expect(try await test.engine.restorePath(to: first.place).findingCount == 0)
      try await test.restore(first.place, to: test.images + "/back", .raw)
      #expect(try SampleImage.bytes(test.images + "/back") == SampleImage.bytes(test.images + "/a.raw"))
    }
  }
}
