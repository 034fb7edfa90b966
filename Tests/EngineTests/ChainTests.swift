import BlockTesting
import Engine
import Foundation
import Model
import ModelTesting
import Repositories
import Testing

/// Backups that build on others: what changed is found by hashes, and every point of a chain can be restored.
struct ChainTests {
  /// Its manifest is as it was, so the scan calls the newest backup complete; but nothing could restore what is built
  /// on it.
  @Test(arguments: [StoredFile.hashes, .data], [false, true])
  func whatCannotBeOpenedIsNotBuiltOn(_ file: StoredFile, _ isBelow: Bool) async throws {
    try await withEngine { test in
      var history = try RawHistory(test, byteCount: 4 << 20)
      for index in 0..<3 {
        try history.change { $0[index << 20] ^= 1 }
        try await history.backUp(.auto)
      }
      let (part, other) = file == .hashes ? (BackupFileName.Part.hashes, 1) : (.data, 0)
      // The middle one, or the newest, has another backup's file.
      let damaged = history.points[isBelow ? 1 : 2].place
      let stranger = history.points[isBelow ? 2 : other].place
      try FileManager.default.removeItem(atPath: damaged.fullPath(part))
      try FileManager.default.copyItem(atPath: stranger.fullPath(part), toPath: damaged.fullPath(part))
      history.points.removeLast(isBelow ? 2 : 1)
      for _ in 0..<2 {
        try history.change { $0[3 << 20] ^= 1 }
        try await history.backUp(.auto)
      }
      let plan = history.points[isBelow ? 1 : 2].plan
      #expect(plan.kind == .incremental && plan.fallback == .init(to: .hash, reason: .trackingLost), "\(plan)")
      #expect(plan.parent?.backup == history.points[isBelow ? 0 : 1].place.backup)
      try await history.expectAllRestorable("\(file), below: \(isBelow)")
    }
  }

  @Test(.eachToolVersion) func anIncrementHoldsWhatChangedAndNothingElse() async throws {
    try await withEngine { test in
      var history = try RawHistory(test, byteCount: 5_000_000)
      try await history.backUp(.full)
      // Data over data, data over zeroes at the end, and zeroes over data: the base must not show through.
      try history.change { bytes in
        bytes.replaceSubrange(70_000..<70_004, with: [1, 2, 3, 4])
        bytes[4_999_999] ^= 0xFF
        bytes.resetBytes(in: 1_000_000..<1_400_000)
      }
      try await history.backUp(.incremental, .none)
      try await history.backUp(.incremental)
      try history.change { $0[0] ^= 1 }
      try await history.backUp(.differential)
      try await history.backUp(.incremental)
      try await history.expectAllRestorable("a chain of five")
      let points = history.points
      #expect(points.map(\.plan.kind) == [.full, .incremental, .incremental, .differential, .incremental])
      #expect(points.map(\.plan.sequence) == [0, 1, 2, 3, 4] && Set(points.map(\.plan.chain)).count == 1)
      #expect(points[1...].map(\.plan.parent?.backup) == [0, 1, 0, 3].map { points[$0].place.backup })
      // What changed the file didn't record it.
      let reasons = [true, false, true, false].map { $0 ? FallbackReason.trackingLost : nil }
      #expect(points[1...].map(\.plan.fallback?.reason) == reasons)
      // Grains of 64 KiB: two that were written, and those that were zeroed and weren't zero.
      #expect(points[1].receipt.dirtyBytes <= 65536 * 9 && points[1].receipt.dirtyBytes >= 65536)
      #expect(points[2].receipt.dirtyBytes == 0 && points[4].receipt.dirtyBytes == 0)
      #expect(points[2].receipt.merkleRoot == points[1].receipt.merkleRoot)
      for point in points { try Tool.judge("check", "-f", "qcow2", point.place.fullPath(.data)) }
    }
  }

  /// Deeper than images can be stacked on each other.
  @Test func aDeepChainIsRestoredAndReadByQemuAlone() async throws {
    try await withEngine { test in
      var history = try RawHistory(test, byteCount: 400_000)
      try await history.backUp(.full)
      for index in 1..<67 {
        try history.change { $0[index * 49_999 % 400_000] &+= 1 }
        try await history.backUp(.incremental, index % 2 == 0 ? .zstd : .none)
      }
      #expect(history.points.allSatisfy { $0.place.chain == history.points[0].place.chain })
      history.points = [1, 66].map { history.points[$0] }
      try await history.expectAllRestorable("a chain of 67")
    }
  }

  @Test func aChainGrowsAndShrinksWithItsImage() async throws {
    try await withEngine { test in
      var history = try RawHistory(test, byteCount: 2_000_001)
      try await history.backUp(.full)
      for (index, byteCount) in [3_000_500, 1_000_003, 1_000_003, 4_000_000].enumerated() {
        try history.change { bytes in
          if bytes.count > byteCount { bytes = bytes.prefix(byteCount) }
          bytes += Data(repeating: index == 3 ? 0 : 7, count: byteCount - bytes.count)
        }
        try await history.backUp(.incremental, index % 2 == 0 ? .zstd : .none)
      }
      #expect(
        history.points.map(\.plan.fallback?.reason) == [
          nil, .identityChanged, .sizeChanged, .trackingLost, .identityChanged,
        ])
      try await history.expectAllRestorable("sizes that change")
    }
  }

  /// Seeded: every kind, compressed or not, with any changes between.
  @Test(arguments: 1...3) func everyPointOfAStoryIsRestorable(seed: UInt64) async throws {
    let effort = ProcessInfo.processInfo.environment["TEST_EFFORT"].flatMap(Int.init) ?? 1
    try await withEngine { test in
      var random = SeededRandom(seed: seed)
      var history = try RawHistory(test, byteCount: 1_500_000 + random.below(70_000), seed: seed)
      for step in 0..<6 + 2 * effort {
        let kinds: [RequestedBackupKind] = [.incremental, .incremental, .differential, .auto, .full, .copy]
        try await history.backUp(kinds[random.below(kinds.count)], random.below(2) == 0 ? .zstd : .none)
        try history.change { bytes in
          for _ in 0..<random.below(6) {
            let start = random.below(bytes.count)
            let count = min(1 + random.below(200_000), bytes.count - start)
            switch random.below(3) {
            case 0: bytes.resetBytes(in: start..<start + count)
            case 1: bytes.replaceSubrange(start..<start + count, with: random.bytes(count))
            default: bytes[start] &+= 1
            }
          }
          if step % 4 == 3 { bytes += Data(random.bytes(random.below(100_000))) }
        }
      }
      try await history.expectAllRestorable("seed \(seed)")
    }
  }

  @Test func whatCannotBeBuiltOnIsPassedOver() async throws {
    try await withEngine { test in
      var history = try RawHistory(test, byteCount: 1_000_000)
      try await history.backUp(.incremental)
      #expect(history.points[0].plan.kind == .full)
      #expect(history.points[0].plan.fallback == .init(to: .full, reason: .noParent))
      for _ in 1...2 {
        try history.change { $0[5] &+= 1 }
        try await history.backUp(.incremental)
      }
      // The newest lost its data: the one before it is built on.
      let newest = history.points.removeLast()
      try FileManager.default.removeItem(atPath: newest.place.fullPath(.data))
      try await history.backUp(.incremental)
      #expect(history.points[2].plan.parent?.backup == history.points[1].place.backup)
      #expect(history.points[2].plan.fallback == .init(to: .hash, reason: .parentMissing))
      #expect(history.points[2].plan.sequence == 3)
      // Known to be damaged, with all that builds on it.
      try await history.backUp(.incremental, unusable: [history.points[1].place.backup])
      #expect(history.points[3].plan.parent?.backup == history.points[0].place.backup)
      try await history.expectAllRestorable("with a hole")
      // Nothing is left to build on.
      try FileManager.default.removeItem(atPath: history.points[0].place.fullPath(.hashes))
      history.points = []
      try await history.backUp(.differential)
      #expect(history.points[0].plan.kind == .full)
      #expect(history.points[0].plan.fallback == .init(to: .full, reason: .parentMissing))
      try await history.expectAllRestorable("a new chain")
    }
  }

  @Test func whatABackupBuildsOnStays() async throws {
    try await withEngine { test in
      var history = try RawHistory(test, byteCount: 1_000_000)
      for kind in [RequestedBackupKind.full, .incremental, .incremental] {
        try history.change { $0[9] &+= 1 }
        try await history.backUp(kind)
      }
      for point in history.points.dropLast() {
        #expect(
          await code { try await test.engine.delete(point.place, control: RecordingJobControl()) }
            == .backupHasDependents)
      }
      // One that is gone by hand is told by the next that would be published.
      var order = test.order(history.image, kind: .incremental)
      order.compression = .none
      _ = try await test.engine.begin(GroupOrder([order]), control: RecordingJobControl())
      try FileManager.default.removeItem(atPath: history.points[2].place.fullPath(.manifest))
      #expect(
        await code { _ = try await test.engine.store(order.backup, control: RecordingJobControl()) } == .backupCorrupt)
      #expect(try await test.engine.scan(test.repository).backups.count == 2)
    }
  }

  @Test func twoPointsTellWhereTheyDiffer() async throws {
    try await withEngine { test in
      var history = try RawHistory(test, byteCount: 33_554_432)
      try await history.backUp(.full)
      try history.change { bytes in
        bytes.resetBytes(in: 300_000..<500_000)
        bytes.replaceSubrange(12_000_000..<12_000_003, with: [1, 2, 3])
      }
      try await history.backUp(.incremental)
      try history.change { $0 += [9] }
      try await history.backUp(.full)
      for (first, second) in [(0, 1), (1, 0), (0, 2), (2, 1), (1, 1)] {
        let (left, right) = (history.points[first], history.points[second])
        let expected = Self.differingGrains(left.bytes, right.bytes)
        for limit in [1, 2, 1000] {
          var (found, next) = ([UInt64](), UInt64?(0))
          while let offset = next {
            let page = try await test.engine.differences(
              left.place, from: right.place, StoredExtentQuery(offset: offset, limit: limit))
            #expect(page.items.count <= limit)
            found += page.items.flatMap { ($0.offset / 65536)..<($0.offset + $0.length + 65535) / 65536 }
            next = page.nextOffset
          }
          #expect(found == expected, "\(first) from \(second)")
        }
      }
      let extents = try await test.engine.extents(ofBackup: history.points[1].place, StoredExtentQuery(limit: 1000))
      #expect(extents.items.first?.offset == 0 && extents.nextOffset == nil)
      #expect(extents.items.reduce(0) { $0 + $1.length } == 33_554_432)
      for item in extents.items where item.zero {
        #expect(history.points[1].bytes[Int(item.offset)..<Int(item.offset + item.length)].allSatisfy { $0 == 0 })
      }
    }
  }

  private static func differingGrains(_ left: Data, _ right: Data) -> [UInt64] {
    let count = max(left.count, right.count)
    return stride(from: 0, to: count, by: 65536).filter { start in
      func grain(_ bytes: Data) -> Data { bytes[min(start, bytes.count)..<min(start + 65536, bytes.count)] }
      return grain(left) != grain(right)
    }.map { UInt64($0 / 65536) }
  }

  /// A restore needs the tables of every file below: a look at metadata names the one that is damaged.
  @Test func damagedTablesBelowAreMetadata() async throws {
    try await withEngine { test in
      var history = try RawHistory(test, byteCount: 4_000_000)
      try await history.backUp(.full, .none)
      for _ in 1...2 {
        try history.change { $0[9] &+= 1 }
        try await history.backUp(.incremental)
      }
      for point in history.points { #expect(try await test.verify(point.place, .metadata).findings == []) }
      // The count of a cluster is too low (qcow2.txt, "Host cluster management"): nothing that is read says so.
      let full = history.points[0].place.fullPath(.data)
      let bytes = try SampleImage.bytes(full)
      func number(_ offset: Int) -> Int { bytes[offset..<offset + 8].reduce(0) { $0 << 8 | Int($1) } }
      let block = number(number(48))
      let file = try #require(FileHandle(forUpdatingAtPath: full))
      try file.seek(toOffset: UInt64(block) + 2 * UInt64(bytes.count / 65536 - 1))
      try file.write(contentsOf: [0, 0])
      try file.close()
      for point in history.points {
        let report = try await test.verify(point.place, .metadata)
        #expect(report.findingCount > 0 && report.findings.allSatisfy { $0.hasPrefix(full) }, "\(report)")
      }
    }
  }

  /// Of what can be read of a parent's files, every damage is an error that names the file; nothing wrong is restored.
  @Test(arguments: [BackupFileName.Part.data, .hashes, .manifest]) func damageBelowIsTold(part: BackupFileName.Part)
    async throws
  {
    try await withEngine { test in
      // More than one page of hashes, so that an increment leaves most of them to its parent.
      var history = try RawHistory(test, byteCount: 18_000_000)
      try await history.backUp(.full, .none)
      try history.change { $0[9] &+= 1 }
      try await history.backUp(.incremental)
      let path = history.points[0].place.fullPath(part)
      let bytes = try SampleImage.bytes(path)
      for damage in 0..<3 {
        switch damage {
        case 0: try FileManager.default.removeItem(atPath: path)
        case 1: try bytes.prefix(bytes.count / 2).write(to: URL(fileURLWithPath: path))
        default:
          var flipped = bytes
          for index in stride(from: 0, to: flipped.count, by: 97) { flipped[index] ^= 4 }
          try flipped.write(to: URL(fileURLWithPath: path))
        }
        let report = try await test.verify(history.points[1].place)
        #expect(report.findingCount > 0, "\(part), \(damage)")
        let target = test.images + "/back"
        let refused = await code { try await test.restore(history.points[1].place, to: target, .raw) }
        if part != .hashes { #expect(refused == .backupCorrupt, "\(part), \(damage)") }
        if refused == nil { #expect(try SampleImage.bytes(target) == history.points[1].bytes) }
        try? FileManager.default.removeItem(atPath: target)
      }
    }
  }
}
