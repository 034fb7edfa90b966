import BlockCore

/// A permanent place in the graph of an attached image: exports and jobs hold the slot, and what stands behind it may
/// change under them, e.g. when a filter slides in.
///
/// It adds nothing to a request but one call, and counts what may change the device.
package final class DeviceSlot: BlockDevice, @unchecked Sendable {
  // Safe to hand over: confined to its loop, like every device.

  /// What requests go to that begin from now on; those in flight end where they began. Another one must have the same
  /// size and alignment.
  // Checked by confinement: the check at run time would take longer than all the rest of a call here.
  @exclusivity(unchecked) package var next: any BlockDevice
  /// Grows when a request begins that may change the device, and again when it has ended: while two looks at it
  /// differ, what was learnt between them may be of no one moment.
  package private(set) var changeCount: UInt64 = 0
  /// The image's only read-modify-write lock above its format: a user that changes a part of a block holds that block
  /// alone, and a user that changes whole blocks shares them.
  package let blocks = RangeLock()

  package init(_ next: any BlockDevice) { self.next = next }

  package var byteCount: UInt64 { next.byteCount }
  package var limits: BlockLimits { next.limits }
  package var isReadOnly: Bool { next.isReadOnly }

  package func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    try next.tryRead(into: &buffer, at: offset)
  }

  nonisolated(nonsending)
    package func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError)
  {
    try await next.read(into: &buffer, at: offset)
  }

  nonisolated(nonsending)
    package func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError)
  {
    changeCount &+= 1
    defer { changeCount &+= 1 }
    try await next.write(bytes, at: offset, options: options)
  }

  nonisolated(nonsending)
    package func writeZeroes(_ range: ByteRange, options: ZeroOptions) async throws(BlockError)
  {
    changeCount &+= 1
    defer { changeCount &+= 1 }
    try await next.writeZeroes(range, options: options)
  }

  nonisolated(nonsending)
    package func discard(_ range: ByteRange) async throws(BlockError)
  {
    changeCount &+= 1
    defer { changeCount &+= 1 }
    try await next.discard(range)
  }

  nonisolated(nonsending)
    package func flush() async throws(BlockError)
  {
    try await next.flush()
  }

  nonisolated(nonsending)
    package func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent]
  {
    try await next.blockStatus(range, limit: limit)
  }

  nonisolated(nonsending)
    package func resize(to byteCount: UInt64) async throws(BlockError)
  {
    changeCount &+= 1
    defer { changeCount &+= 1 }
    try await next.resize(to: byteCount)
  }

  nonisolated(nonsending)
    package func close() async throws(BlockError)
  {
    try await next.close()
  }
}

/// Where nothing stands before a file that can do it.
extension DeviceSlot: PipeSource {
  package var fillsPipes: Bool { (next as? any PipeSource)?.fillsPipes ?? false }

  nonisolated(nonsending)
    package func fill(pipe descriptor: Int32, from range: ByteRange) async throws(BlockError) -> Int
  {
    guard let source = next as? any PipeSource else {
      throw BlockError(.notSupported, .read, range, cause: "the device behind the slot fills no pipes")
    }
    return try await source.fill(pipe: descriptor, from: range)
  }
}
