/// A device that can hand its bytes over without copying them.
///
/// Not for a view of an earlier time: what lies in a pipe still follows the writes that come after.
package protocol PipeSource: BlockDevice {
  /// False where it can't as things are now; to be asked right before each ``fill(pipe:from:)``.
  var fillsPipes: Bool { get }

  /// Puts bytes from `range.offset` on into an empty pipe, by its writing end. A reader that takes them out later
  /// may find them changed by writes since. At least one byte and at most `range.length`: as many as the pipe holds.
  func fill(pipe descriptor: Int32, from range: ByteRange) async throws(BlockError) -> Int
}
