import BlockCore
import Glibc

/// Stands for what an increment builds on while the increment is written: as long as it, and holding anything.
///
/// An increment is written in whole clusters, so that nothing of its base is copied. Only the last cluster may reach
/// beyond the guest's end; what lies there reads as zeroes.
final class UnreadBase: BlockDevice {
  let byteCount: UInt64
  let limits = BlockLimits()
  let isReadOnly = true

  init(byteCount: UInt64) { self.byteCount = byteCount }

  func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    buffer.withUnsafeMutableBytes { bytes in
      if let start = bytes.baseAddress { memset(start, 0, bytes.count) }
    }
    return true
  }

  nonisolated(nonsending)
    func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError)
  { _ = try tryRead(into: &buffer, at: offset) }

  nonisolated(nonsending)
    func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError)
  { throw BlockError(.readOnly, .write) }

  nonisolated(nonsending)
    func writeZeroes(_ range: ByteRange, options: ZeroOptions) async throws(BlockError)
  { throw BlockError(.readOnly, .writeZeroes, range) }

  nonisolated(nonsending)
    func discard(_ range: ByteRange) async throws(BlockError)
  { throw BlockError(.readOnly, .discard, range) }

  nonisolated(nonsending)
    func flush() async throws(BlockError)
  {}

  nonisolated(nonsending)
    func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent]
  { range.isEmpty ? [] : [Extent(range: range, status: [], depth: 0)] }

  nonisolated(nonsending)
    func resize(to byteCount: UInt64) async throws(BlockError)
  { throw BlockError(.notSupported, .resize) }

  nonisolated(nonsending)
    func close() async throws(BlockError)
  {}
}
