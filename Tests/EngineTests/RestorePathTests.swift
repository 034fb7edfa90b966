import Foundation
import Model
import Repositories
import Testing

@testable import Engine

/// What a restore would read, looked at before anything is written.
@Suite struct RestorePathTests {
  /// A full, two increments on it, and one on the second.
  private static func withChain(
    _ body: (TestEngine, [StoredBackupLocation]) async throws -> Void
  ) async throws {
    try await withEngine { test in
      var history = try RawHistory(test, byteCount: 1_000_000)
      for kind in [RequestedBackupKind.full, .incremental, .incremental, .incremental] {
        try history.change { for index in $0.indices { $0[index] &+= UInt8(truncatingIfNeeded: index % 251 + 1) } }
        try await history.backUp(kind)
      }
      try await body(test, history.points.map(\.place))
    }
  }

  @Test func soundChainIsToldFromTheFullOn() async throws {
    try await Self.withChain { test, places in
      for (index, place) in places.enumerated() {
        let path = try await test.engine.restorePath(to: place)
        #expect(path == RestorePath(backups: places.prefix(index + 1).map(\.backup)))
      }
    }
  }

  enum Damage: CaseIterable {
    case missingData, missingHashes, missingManifest, truncatedData, truncatedHashes, brokenTables, swappedHashes
  }

  /// Wherever it is, and also where another file is damaged as well.
  @Test(arguments: Damage.allCases, 0..<4)
  func damageIsNamedWithItsFile(_ damage: Damage, _ index: Int) async throws {
    try await Self.withChain { test, places in
      let damaged = places[index]
      let name = try Self.inflict(damage, on: damaged, beside: places[(index + 1) % 4])
      for (above, place) in places.enumerated() {
        let path = try await test.engine.restorePath(to: place)
        guard above >= index else {
          #expect(path.findingCount == 0, "what it doesn't build on is sound")
          continue
        }
        #expect(path.findings.contains { $0.contains(name) }, "\(above): \(path.findings)")
      }
      let other = places[(index + 2) % 4]
      try FileManager.default.removeItem(atPath: other.fullPath(.hashes))
      let path = try await test.engine.restorePath(to: places[3])
      #expect(path.findings.contains { $0.contains(name) } || damage == .missingManifest && index > (index + 2) % 4)
      if damage != .missingManifest {
        #expect(path.findings.contains { $0.contains(other.fullPath(.hashes)) }, "all of them: \(path.findings)")
      }
    }
  }

  /// Returns what the finding has to name.
  private static func inflict(
    _ damage: Damage, on place: StoredBackupLocation, beside other: StoredBackupLocation
  ) throws -> String {
    let files = FileManager.default
    let (data, hashes) = (place.fullPath(.data), place.fullPath(.hashes))
    switch damage {
    case .missingData:
      try files.removeItem(atPath: data)
      return data
    case .missingHashes:
      try files.removeItem(atPath: hashes)
      return hashes
    case .missingManifest:
      try files.removeItem(atPath: place.fullPath(.manifest))
      return place.backup.description
    case .truncatedData:
      let file = try #require(FileHandle(forUpdatingAtPath: data))
      try file.truncate(atOffset: try file.seekToEnd() - 65536)
      return data
    case .truncatedHashes:
      let file = try #require(FileHandle(forUpdatingAtPath: hashes))
      try file.truncate(atOffset: try file.seekToEnd() - 4096)
      return hashes
    case .brokenTables:
      // The L1 table's place is in the header, at byte 40.
      let file = try #require(FileHandle(forUpdatingAtPath: data))
      try file.seek(toOffset: 40)
      let table = try #require(try file.read(upToCount: 8)).reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
      try file.seek(toOffset: table)
      try file.write(contentsOf: Data([0x80, 0, 0, 0, 0x7F, 0, 0, 0]))
      return data
    case .swappedHashes:
      try files.removeItem(atPath: hashes)
      try files.copyItem(atPath: other.fullPath(.hashes), toPath: hashes)
      return hashes
    }
  }
}
