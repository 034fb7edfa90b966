import BlockCore
import Buffers

/// Passes requests on when the schedule of its loop says so: at their beginning, amid them, and at their end. A change or
/// a read amid which others come is in two halves.
package final class HeldDevice: BlockFilter, @unchecked Sendable {
  // Safe to hand over: confined to its home loop, like every device.

  package let next: any BlockDevice
  private let name: String
  private let loop: SteppedLoop

  package init(_ next: any BlockDevice, name: String, on loop: SteppedLoop) {
    self.next = next
    self.name = name
    self.loop = loop
  }

  package func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    if loop.draw(below: 2) == 0 { return false }
    return try next.tryRead(into: &buffer, at: offset)
  }

  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError) {
    let range = ByteRange(offset: offset, length: UInt64(buffer.byteCount))
    await hold(.read, range)
    let middle = Int(middle(of: range) - offset)
    if middle > 0 {
      var part = buffer.part(0..<middle)
      try await next.read(into: &part, at: offset)
      await hold(.read, range)
    }
    var part = buffer.part(middle..<buffer.byteCount)
    try await next.read(into: &part, at: offset + UInt64(middle))
    await hold(.read, range)
  }

  package func change(
    _ kind: BlockChange, _ range: ByteRange, _ perform: (ByteRange) async throws(BlockError) -> Void
  ) async throws(BlockError) {
    await hold(kind.operation, range)
    if case .resize = kind { return try await perform(range) }
    let middle = middle(of: range)
    if middle > range.offset {
      try await perform(ByteRange(range.offset..<middle))
      await hold(kind.operation, range)
    }
    try await perform(ByteRange(middle..<range.end))
    await hold(kind.operation, range)
  }

  package func flush() async throws(BlockError) {
    await hold(.flush, ByteRange(offset: 0, length: 0))
    try await next.flush()
  }

  package func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
    await hold(.blockStatus, range)
    let extents = try await next.blockStatus(range, limit: limit)
    await hold(.blockStatus, range)
    return extents
  }

  private func hold(_ operation: BlockError.Operation, _ range: ByteRange) async {
    guard loop.draw(below: 4) > 0 else { return }
    await loop.hold(HeldRequest(device: name, operation: operation, range: range))
  }

  /// Where the request is cut in two, in a quarter of all cases; else its beginning.
  private func middle(of range: ByteRange) -> UInt64 {
    let unit = UInt64(limits.requestAlignment)
    guard range.length >= 2 * unit, loop.draw(below: 4) == 0 else { return range.offset }
    return range.offset + UInt64(loop.draw(below: Int(range.length / unit))) * unit
  }
}
