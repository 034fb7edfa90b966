import BlockCore
import BlockTesting
import Engine
import Foundation
import Locks
import Model
import ModelTesting
import NBD
import Testing

/// What clients of an exported backup see of its difference from others.
struct DifferenceExportTests {
  private static let grain = 65536

  /// Offset and length of each stretch that differs, in bytes.
  private static func changed(_ name: String, _ order: ExportOrder, _ test: TestEngine) async throws -> [UInt64] {
    let text = try await Tool.runAside("nbdinfo", ["--json", "--map=qemu:dirty-bitmap:\(name)", test.uri(order)])
    let items = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [[String: Any]] ?? []
    let all = items.map { ($0["offset"] as? Int ?? -1, $0["length"] as? Int ?? -1, $0["type"] as? Int) }
    return all.filter { $0.2 == 1 }.flatMap { [UInt64($0.0), UInt64($0.1)] }
  }

  private static func difference(
    _ backup: RawHistory.Point, _ other: RawHistory.Point, _ test: TestEngine
  ) async throws -> [UInt64] {
    let query = StoredExtentQuery(length: UInt64(backup.bytes.count), limit: 1000)
    return try await test.engine.differences(backup.place, from: other.place, query).items
      .flatMap { [$0.offset, $0.length] }
  }

  @Test(.eachToolVersion) func clientsSeeTheDifferenceFromBackupsOfAnyChain() async throws {
    try await withEngine { test in
      var history = try RawHistory(test, byteCount: 3_000_001)
      try await history.backUp(.full)
      try history.change { $0[100_000] ^= 1 }
      try await history.backUp(.incremental)
      try history.change { bytes in
        bytes[700_000] ^= 1
        bytes += Data(repeating: 5, count: 1_000_000)
      }
      try await history.backUp(.full)
      try history.change { $0 = $0.prefix(2_000_000) }
      try await history.backUp(.incremental)
      let points = history.points
      #expect(points[2].place.chain != points[1].place.chain)
      for exported in points.indices {
        let since = points.indices.map {
          ExportOrder.Difference(backup: points[$0].place, exportName: "since-\($0)")
        }
        let order = test.order("point", .backup(points[exported].place), changedSince: since)
        try await test.engine.export(order)
        for other in points.indices {
          let seen = try await Self.changed("since-\(other)", order, test)
          #expect(seen == (try await Self.difference(points[exported], points[other], test)), "\(exported), \(other)")
          if other == exported { #expect(seen == []) }
        }
        try await test.engine.withdraw(order.export, .hard)
      }
      #expect(try await Self.difference(points[1], points[0], test) == [65536, 65536])
    }
  }

  @Test func newClientsSeeOthersFromAStandingExport() async throws {
    try await withEngine { test in
      var history = try RawHistory(test, byteCount: 1 << 20)
      try await history.backUp(.full)
      try history.change { $0[100_000] ^= 1 }
      try await history.backUp(.incremental)
      let points = history.points
      var order = test.order("point", .backup(points[1].place))
      try await test.engine.export(order)
      await #expect(throws: Tool.Failure.self) { try await Self.changed("full", order, test) }
      order.changedSince = [ExportOrder.Difference(backup: points[0].place, exportName: "full")]
      try await test.engine.setContexts(order)
      #expect(try await Self.changed("full", order, test) == [65536, 65536])
      // What can't be told leaves what there is.
      try FileManager.default.removeItem(atPath: points[0].place.fullPath(.hashes))
      order.changedSince.append(ExportOrder.Difference(backup: points[0].place, exportName: "again"))
      #expect(await code { try await test.engine.setContexts(order) } == .backupCorrupt)
      await #expect(throws: Tool.Failure.self) { try await Self.changed("again", order, test) }
      let image = test.order("vm", .image(ImageLocation(source: .file(path: history.path), format: .raw)))
      var wrong = image
      wrong.changedSince = order.changedSince
      #expect(await code { try await test.engine.export(wrong) } == .invalidField)
    }
  }

  /// Seeded: whatever is asked in which order, the answers are the difference's, and each page of it is read once.
  @Test(arguments: 1...4 as ClosedRange<UInt64>) func answersArePutTogetherFromPages(seed: UInt64) async throws {
    try await LoopActor().run { _ in
      var random = SeededRandom(seed: seed)
      let grains: UInt64 = 300
      let byteCount = grains * 65536 - 777
      let differs = (0..<grains).map { _ in random.oneIn(3) }
      let pages = Lock(0)
      let context = DifferenceContext(exportName: "x", byteCount: byteCount) { query in
        pages.withLock { $0 += 1 }
        #expect(query.offset % 65536 == 0 && query.length == byteCount - query.offset)
        var (items, grain) = ([DifferencePage.Item](), query.offset / 65536)
        while grain < grains, items.count < 7 {
          if differs[Int(grain)] {
            let end = min(byteCount, (grain + 1) * 65536)
            items.append(DifferencePage.Item(offset: grain * 65536, length: end - grain * 65536))
          }
          grain += 1
        }
        return DifferencePage(items: items, nextOffset: grain < grains ? grain * 65536 : nil)
      }
      #expect(context.name == "qemu:dirty-bitmap:x")
      let device = MemoryDevice(byteCount: byteCount)
      for _ in 0..<200 {
        let range = random.range(within: byteCount, alignment: 1, maximum: 3_000_000, near: 65536)
        guard !range.isEmpty else { continue }
        var position = range.lowerBound
        let extents = try await context.extents(in: ByteRange(range), limit: 1 + random.below(9), of: device)
        #expect(!extents.isEmpty)
        for extent in extents {
          for place in [position, position + extent.length - 1] {
            #expect(differs[Int(place / 65536)] == (extent.flags == 1), "\(range), \(random)")
          }
          position += extent.length
        }
        #expect(position <= range.upperBound)
      }
      let asked = pages.withLock { $0 }
      _ = try await context.extents(in: ByteRange(0..<byteCount), limit: 9, of: device)
      #expect(asked < 60 && pages.withLock { $0 } <= asked + 1)
    }
  }

  @Test func hashesThatCannotBeReadFailTheRequestAlone() async throws {
    try await LoopActor().run { _ in
      let isBroken = Lock(true)
      let context = DifferenceContext(exportName: "x", byteCount: 1 << 20) { _ in
        if isBroken.withLock({ $0 }) { throw DomainError(.backupCorrupt, "its page is damaged") }
        return DifferencePage(items: [], nextOffset: nil)
      }
      let (device, all) = (MemoryDevice(byteCount: 1 << 20), ByteRange(0..<1 << 20))
      let error = await #expect(throws: BlockError.self) { try await context.extents(in: all, limit: 1, of: device) }
      if case .corrupt = error?.kind {} else { Issue.record("\(error as Any)") }
      isBroken.withLock { $0 = false }
      let extents = try await context.extents(in: all, limit: 1, of: device)
      #expect(extents == [ContextExtent(length: 1 << 20, flags: 0)])
    }
  }
}
