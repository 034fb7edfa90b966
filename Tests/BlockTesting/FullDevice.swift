import BlockCore
import Buffers

/// A disk that is nearly full: what was written once can be written again, and so many blocks beside it.
package final class FullDevice: BlockFilter, @unchecked Sendable {
  // Safe to hand over: confined to its home loop, like every device.

  private let memory: MemoryDevice
  /// Blocks of the device that are left; nil for as many as are wanted.
  package var blocksLeft: Int?
  package private(set) var wasHit = false

  package init(_ memory: MemoryDevice) { self.memory = memory }

  package var next: any BlockDevice { memory }

  package func change(
    _ kind: BlockChange, _ range: ByteRange, _ perform: (ByteRange) async throws(BlockError) -> Void
  ) async throws(BlockError) {
    if case .write = kind, let left = blocksLeft {
      let whole = range.aligned(to: UInt64(memory.image.blockByteCount))
      let missing = try await memory.wholeStatus(whole.intersection(ByteRange(offset: 0, length: byteCount)) ?? range)
        .filter { $0.status.contains(.hole) }.reduce(0) { $0 + Int($1.range.length) / memory.image.blockByteCount }
      guard missing <= left else {
        wasHit = true
        throw BlockError(.noSpace, .write, range)
      }
      blocksLeft = left - missing
    }
    try await perform(range)
  }
}
