import BlockTesting
import Engine
import Foundation
import Model
import ModelTesting
import Repositories
import Testing

/// One changed byte anywhere in a stored backup is found by verification, and never restored as if it were sound.
struct CorruptionTests {
  @Test func byteInAnyFileOfTheBackupIsFoundAndNotRestored() async throws {
    try await withEngine { test in
      let source = test.images + "/vm.raw"
      try SampleImage.raw(at: source, byteCount: 2 << 20, seed: 21)
      let original = try SampleImage.bytes(source)
      for compression in Compression.allCases {
        let made = try await test.backUp(test.record("vm", source, .raw), compression)
        var random = SeededRandom(seed: 22)
        for part in [BackupFileName.Part.data, .hashes, .manifest] {
          let path = made.place.fullPath(part)
          let sound = try SampleImage.bytes(path)
          for round in 0..<TestEffort.rounds(20) {
            let offset = UInt64(random.below(sound.count))
            try SampleImage.damage(path, at: offset)
            let place = "\(part) byte \(offset), \(compression), round \(round), \(random)"
            let report = try await test.verify(made.place)
            #expect(report.findingCount >= report.findings.count)
            let target = test.images + "/back.raw"
            do {
              try await test.restore(made.place, to: target, .raw)
              // What the guest sees may be untouched: padding of a cluster, or a table that reading doesn't need.
              #expect(try SampleImage.bytes(target) == original, "\(place)")
              #expect(part == .data, "\(place)")
              try FileManager.default.removeItem(atPath: target)
            } catch let error as DomainError {
              #expect(!report.findings.isEmpty, "\(place): \(error)")
              #expect([.backupCorrupt, .formatUnsupported, .backingRefused].contains(error.code), "\(place): \(error)")
            }
            #expect(TestEngine.files(beneath: test.images) == ["vm.raw"], "\(place)")
            try sound.write(to: URL(fileURLWithPath: path))
          }
        }
        #expect(try await test.verify(made.place).findings == [])
      }
    }
  }

  @Test func damagedGrainIsNamedByItsPlace() async throws {
    try await withEngine { test in
      let source = test.images + "/vm.raw"
      var image = SparseImage(byteCount: 1 << 20)
      let marker = [UInt8](repeating: 0xC7, count: 65536)
      image.write(marker.span.bytes, at: 5 * 65536)
      try image.dump(to: source)
      let made = try await test.backUp(test.record("vm", source, .raw), .none)
      let stored = try SampleImage.bytes(made.dataPath)
      let place = try #require(stored.range(of: Data(marker)))
      try SampleImage.damage(made.dataPath, at: UInt64(place.lowerBound + 100))
      let report = try await test.verify(made.place)
      #expect(report.findingCount == 1)
      #expect(report.findings.first?.contains("[327680, 393216)") == true, "\(report.findings)")
      #expect(try await test.verify(made.place, .metadata).findings == [])
      let error = await #expect(throws: DomainError.self) {
        try await test.restore(made.place, to: test.images + "/back.raw", .raw)
      }
      #expect(error?.code == .backupCorrupt)
      #expect(error?.detail.contains("[327680, 393216)") == true)
    }
  }

  @Test func failedRestoreOverAnImageSaysWhatThatImageIsNow() async throws {
    try await withEngine { test in
      let source = test.images + "/vm.raw"
      try Tool.run("dd", "if=/dev/urandom", "of=\(source)", "bs=1M", "count=2", "status=none")
      let made = try await test.backUp(test.record("vm", source, .raw), .none)
      let stored = try SampleImage.bytes(made.dataPath)
      let last = try SampleImage.bytes(source).suffix(4096)
      try SampleImage.damage(made.dataPath, at: UInt64(try #require(stored.range(of: last)).lowerBound))
      let error = await #expect(throws: DomainError.self) {
        try await test.engine.restore(
          RestoreOrder(
            backup: made.place, target: .image(ImageLocation(source: .file(path: source), format: .raw))),
          control: RecordingJobControl())
      }
      #expect(error?.code == .backupCorrupt)
      #expect(error?.detail.contains("mixture") == true, "\(error as Any)")
    }
  }

  @Test(arguments: [BackupFileName.Part.data, .hashes, .manifest])
  func missingFileIsAFinding(_ part: BackupFileName.Part) async throws {
    try await withEngine { test in
      let source = test.images + "/vm.raw"
      try SampleImage.raw(at: source, byteCount: 1 << 20, seed: 24)
      let made = try await test.backUp(test.record("vm", source, .raw))
      try FileManager.default.removeItem(atPath: made.place.fullPath(part))
      for level in VerifyLevel.allCases {
        #expect(try await test.verify(made.place, level).findings.isEmpty == false)
      }
      let error = await #expect(throws: DomainError.self) {
        try await test.restore(made.place, to: test.images + "/back.raw", .raw)
      }
      #expect(error?.code == (part == .manifest ? .backupNotComplete : .backupCorrupt))
      let scan = try await test.engine.scan(test.repository)
      #expect(scan.backups.allSatisfy { $0.state == .corrupt })
      #expect(scan.backups.count == (part == .manifest ? 0 : 1))
      #expect(!scan.findings.isEmpty)
    }
  }

  @Test func swappedBackupIsNotTakenForTheOther() async throws {
    try await withEngine { test in
      let source = test.images + "/vm.raw"
      try SampleImage.raw(at: source, byteCount: 1 << 20, seed: 25)
      let image = test.record("vm", source, .raw)
      let one = try await test.backUp(image)
      try SampleImage.raw(at: source, byteCount: 1 << 20, seed: 26)
      let other = try await test.backUp(image)
      let data = try SampleImage.bytes(other.dataPath)
      try data.write(to: URL(fileURLWithPath: one.dataPath))
      #expect(try await test.verify(one.place).findings.isEmpty == false)
      let manifest = try SampleImage.bytes(other.place.fullPath(.manifest))
      try manifest.write(to: URL(fileURLWithPath: one.place.fullPath(.manifest)))
      #expect(try await test.verify(one.place, .metadata).findings.isEmpty == false)
    }
  }
}
