import BlockCore

/// A metadata context that an export offers: a name, and what it says of a range.
package protocol ExportContext: Sendable {
  /// The whole name, namespace and colon included, e.g. `qemu:dirty-bitmap:monday`.
  var name: String { get }

  /// Extents in order, without gaps, from `range.offset` on, at least one, at most `limit`; the last one ends at or
  /// before `range.end`. May answer for less than the range. Called on the device's loop; `range` is not empty and lies
  /// inside the device.
  func extents(
    in range: ByteRange, limit: Int, of device: any BlockDevice
  ) async throws(BlockError) -> [ContextExtent]
}

/// `base:allocation`: where the export has holes and zeroes (proto.md, “`base:allocation` metadata context”).
package struct AllocationContext: ExportContext {
  package let name = "base:allocation"

  package init() {}

  package func extents(
    in range: ByteRange, limit: Int, of device: any BlockDevice
  ) async throws(BlockError) -> [ContextExtent] {
    var result: [ContextExtent] = []
    for extent in try await device.blockStatus(range, limit: limit) {
      var state: AllocationState = []
      if extent.status.contains(.hole) { state.insert(.hole) }
      if extent.status.contains(.zero) { state.insert(.zero) }
      result.appendMerging(ContextExtent(length: extent.range.length, flags: state.rawValue))
    }
    return result
  }
}

/// `qemu:allocation-depth`: which layer of a chain holds a range; 1 is the export's own, 0 none (QEMU's
/// docs/interop/nbd.rst).
package struct AllocationDepthContext: ExportContext {
  package let name = "qemu:allocation-depth"

  package init() {}

  package func extents(
    in range: ByteRange, limit: Int, of device: any BlockDevice
  ) async throws(BlockError) -> [ContextExtent] {
    var result: [ContextExtent] = []
    for extent in try await device.blockStatus(range, limit: limit) {
      result.appendMerging(ContextExtent(length: extent.range.length, flags: UInt64(extent.depth)))
    }
    return result
  }
}
