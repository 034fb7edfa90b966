import BlockCore
import EventLoops
import Failures
import Model
import Repositories

/// What is told of stored backups without reading their data.
extension LocalEngine {
  package func extents(ofBackup backup: StoredBackupLocation, _ query: StoredExtentQuery) async throws -> ExtentPage {
    try await onLoop(in: backup.repository.lane) { [self] loop in
      let stored = try await open(backup.repository, on: loop).stored(backup)
      let data = try await stored.openData()
      return try await closing([data]) {
        try await telling(about: stored.dataName, damage: .backupCorrupt) {
          try await Self.page(
            of: data, byteCount: stored.manifest.virtualSize, stored.manifest.merkleRoot, query)
        }
      }
    }
  }

  /// Leaves that one page looks at one by one, at most: where all differs, a page of them ends.
  private static let leavesPerPage: UInt64 = 1 << 18

  package func differences(
    _ backup: StoredBackupLocation, from other: StoredBackupLocation, _ query: StoredExtentQuery
  ) async throws -> DifferencePage {
    try await onLoop(in: backup.repository.lane) { [self] loop in
      let stored = try await open(backup.repository, on: loop).stored(backup)
      let base = try await open(other.repository, on: loop).stored(other)
      let byteCount = max(stored.manifest.virtualSize, base.manifest.virtualSize)
      guard query.offset <= byteCount else {
        throw DomainError(
          .invalidParameter, "the offset \(query.offset) is past the \(byteCount) bytes of the longer backup")
      }
      let end = query.length.map { $0 < byteCount - query.offset ? query.offset + $0 : byteCount } ?? byteCount
      let hashes = try await stored.openHashes(work: work)
      return try await closing([hashes.device]) {
        let baseHashes = try await base.openHashes(work: work)
        return try await closing([baseHashes.device]) {
          try await tellingAboutHashes(stored.hashesName) {
            try await Self.page(
              of: hashes.reader, from: baseHashes.reader, ByteRange(query.offset..<end), limit: query.limit)
          }
        }
      }
    }
  }

  nonisolated(nonsending)
    private static func page(
      of hashes: HashTreeReader, from base: HashTreeReader, _ range: ByteRange, limit: Int
    ) async throws -> DifferencePage
  {
    let grain = UInt64(HashTree.grainByteCount)
    let leaves = range.offset / grain..<(range.end + grain - 1) / grain
    var (items, next, left) = ([DifferencePage.Item](), leaves.lowerBound, leavesPerPage)
    while next < leaves.upperBound,
      let run = try await hashes.firstDifference(from: base, in: next..<leaves.upperBound, limit: left)
    {
      guard items.count < limit, left > 0 else {
        return DifferencePage(items: items, nextOffset: max(range.offset, run.lowerBound * grain))
      }
      let offset = max(range.offset, run.lowerBound * grain)
      let end = min(range.end, run.upperBound * grain)
      items.append(DifferencePage.Item(offset: offset, length: end - offset))
      left -= min(left, UInt64(run.count))
      next = run.upperBound
    }
    return DifferencePage(items: items, nextOffset: nil)
  }
}
