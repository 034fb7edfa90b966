import BlockCore

/// The first bytes of a device, to read: of a backup, whose qcow2 file holds whole sectors, exactly the guest's disk.
final class ExactSizeDevice: BlockDevice, @unchecked Sendable {
  // Safe to hand over: confined to its loop, like every device.

  private let next: any BlockDevice
  let byteCount: UInt64

  /// - Parameter next: closed with this; at least as long, and of alignment 1.
  init(_ next: any BlockDevice, byteCount: UInt64) {
    precondition(byteCount <= next.byteCount && next.limits.requestAlignment == 1, "not a part of this device")
    self.next = next
    self.byteCount = byteCount
  }

  var limits: BlockLimits { next.limits }
  var isReadOnly: Bool { true }

  func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    try checkRequest(.read, at: offset, length: UInt64(buffer.byteCount))
    return try next.tryRead(into: &buffer, at: offset)
  }

  nonisolated(nonsending)
    func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError)
  {
    try checkRequest(.read, at: offset, length: UInt64(buffer.byteCount))
    try await next.read(into: &buffer, at: offset)
  }

  nonisolated(nonsending)
    func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError)
  {
    throw BlockError(.readOnly, .write)
  }

  nonisolated(nonsending)
    func writeZeroes(_ range: ByteRange, options: ZeroOptions) async throws(BlockError)
  {
    throw BlockError(.readOnly, .writeZeroes)
  }

  nonisolated(nonsending)
    func discard(_ range: ByteRange) async throws(BlockError)
  {
    throw BlockError(.readOnly, .discard)
  }

  nonisolated(nonsending)
    func flush() async throws(BlockError)
  {
    try await next.flush()
  }

  nonisolated(nonsending)
    func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent]
  {
    try checkRequest(.blockStatus, at: range.offset, length: range.length)
    return try await next.blockStatus(range, limit: limit)
  }

  nonisolated(nonsending)
    func resize(to byteCount: UInt64) async throws(BlockError)
  {
    throw BlockError(.readOnly, .resize)
  }

  nonisolated(nonsending)
    func close() async throws(BlockError)
  {
    try await next.close()
  }
}
