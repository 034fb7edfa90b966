import BlockCore
import Buffers

/// Bytes of a disk in memory, which don't change any more.
final class GrainBytes: @unchecked Sendable {
  // Safe to hand over: confined to the loop of its image.

  /// Where they lie on the disk.
  let range: ByteRange
  private let buffer: PageBuffer
  /// Where the buffer's memory begins: its spans would end with each call that gives one.
  private let start: UnsafeRawPointer
  private var share: FleecingMemory.Share?

  /// - Parameters:
  ///   - buffer: begins with the bytes. What follows them may be asked for too.
  ///   - share: where the memory was taken from; it goes back there when the last user has left it.
  init(_ buffer: consuming PageBuffer, _ range: ByteRange, from share: FleecingMemory.Share? = nil) {
    start = buffer.bytes.withUnsafeBytes { $0.baseAddress! }
    self.buffer = buffer
    self.range = range
    self.share = share
  }

  /// Takes over memory of the share, as much as the buffer has.
  func charge(to share: FleecingMemory.Share) {
    precondition(self.share == nil)
    self.share = share
  }

  deinit { share?.giveBack(buffer.byteCount) }

  /// `byteCount` bytes from `offset` on.
  @_lifetime(borrow self)
  func bytes(at offset: UInt64, _ byteCount: Int) -> RawSpan {
    let first = Int(offset - range.offset)
    precondition(offset >= range.offset && first + byteCount <= buffer.byteCount)
    return _overrideLifetime(RawSpan(_unsafeStart: start + first, byteCount: byteCount), borrowing: self)
  }
}
