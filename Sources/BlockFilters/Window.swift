import BlockCore

/// The first bytes of a device, to read: of a backup, whose qcow2 file holds whole sectors, exactly the guest's disk.
package final class Window: BlockFilter, @unchecked Sendable {
  // Safe to hand over: confined to its loop, like every device.

  package let next: any BlockDevice
  package let byteCount: UInt64

  /// - Parameter next: closed with this; at least as long, and of alignment 1.
  package init(_ next: any BlockDevice, byteCount: UInt64) {
    precondition(byteCount <= next.byteCount && next.limits.requestAlignment == 1, "not a part of this device")
    self.next = next
    self.byteCount = byteCount
  }

  package var isReadOnly: Bool { true }

  package func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    try checkRequest(.read, at: offset, length: UInt64(buffer.byteCount))
    return try next.tryRead(into: &buffer, at: offset)
  }

  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError) {
    try checkRequest(.read, at: offset, length: UInt64(buffer.byteCount))
    try await next.read(into: &buffer, at: offset)
  }

  package func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
    try checkRequest(.blockStatus, at: range.offset, length: range.length)
    return try await next.blockStatus(range, limit: limit)
  }

  package func change(
    _ kind: BlockChange, _ range: ByteRange,
    _ perform: (ByteRange) async throws(BlockError) -> Void
  ) async throws(BlockError) {
    throw BlockError(.readOnly, kind.operation, range)
  }
}
