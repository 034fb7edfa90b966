import Bitmaps
import BlockCore
import Failures
import Model
import NBD

/// `qemu:dirty-bitmap:NAME` on the export of a backup: where it isn't what another backup of the image is, of the same
/// chain or of another one.
///
/// It is what the difference of the two backups over REST says, in grains of 64 KiB, as their hashes tell. It is worked out
/// as far as clients ask, and kept: the hashes are open only meanwhile. Hashes that can't be read fail the request.
package final class DifferenceContext: ExportContext, @unchecked Sendable {
  // Safe to hand over: confined to the loop of the export's device.

  /// The difference from an offset on, as far as it goes on one page.
  package typealias Page = @Sendable (StoredExtentQuery) async throws -> DifferencePage

  /// Stretches that are worked out at a time.
  static let itemsPerPage = 1 << 14

  package let name: String
  private let page: Page
  private var different: DirtyBitmap
  /// Dirty is what was worked out.
  private var known: DirtyBitmap
  private let pages = RangeLock()

  /// - Parameter byteCount: of the exported disk.
  package init(exportName: String, byteCount: UInt64, page: @escaping Page) {
    name = DirtyBitmapContext.prefix + exportName
    self.page = page
    different = .ofGrains(byteCount: byteCount)
    known = different
  }

  nonisolated(nonsending)
    package func extents(
      in range: ByteRange, limit: Int, of device: any BlockDevice
    ) async throws(BlockError) -> [ContextExtent]
  {
    if !known.contains(range.offset) {
      let hold = await pages.acquire(ByteRange(offset: 0, length: 1), .exclusive)
      defer { pages.release(hold) }
      if !known.contains(range.offset) { try await workOut(from: range) }
    }
    let end = known.nextDirty(from: range.offset, before: range.end).map { min($0.end, range.end) } ?? range.end
    var extents: [ContextExtent] = []
    different.forEachStretch(in: ByteRange(range.offset..<end), limit: limit) { stretch, isDifferent in
      extents.append(ContextExtent(length: stretch.length, flags: isDifferent ? 1 : 0))
    }
    return extents
  }

  nonisolated(nonsending)
    private func workOut(from range: ByteRange) async throws(BlockError)
  {
    let start = range.offset / known.granularity * known.granularity
    let found: DifferencePage
    do {
      found = try await page(
        StoredExtentQuery(offset: start, length: known.byteCount - start, limit: Self.itemsPerPage))
    } catch {
      throw BlockError(any: error, .blockStatus, range)
    }
    for item in found.items { different.set(ByteRange(offset: item.offset, length: item.length)) }
    // A page is longer than a granule.
    let end = found.nextOffset.map { $0 / known.granularity * known.granularity } ?? known.byteCount
    known.set(ByteRange(start..<max(start, end)))
  }
}

extension LocalEngine {
  /// The differences that the export of a backup shows. The first part of each is worked out: what can't be is told now.
  func differenceContexts(_ order: ExportOrder, _ source: OpenExportSource) async throws -> [any ExportContext] {
    guard !order.changedSince.isEmpty else { return [] }
    guard case .backup(let exported) = order.source else {
      throw DomainError(
        .invalidField, "the export \(order.name) shows no backup",
        remedy: "export a backup to show what changed in it since another one")
    }
    var contexts: [any ExportContext] = []
    for difference in order.changedSince {
      _ = try await differences(
        exported, from: difference.backup, StoredExtentQuery(length: 0, limit: DifferenceContext.itemsPerPage))
      contexts.append(
        DifferenceContext(exportName: difference.exportName, byteCount: source.device.byteCount) { [weak self] query in
          guard let self else { throw DomainError(.stopping, "the server is stopping") }
          return try await differences(exported, from: difference.backup, query)
        })
    }
    return contexts
  }
}
