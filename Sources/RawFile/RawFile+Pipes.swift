import BlockCore
import EventLoops
import Glibc

/// Pages of the cache go to a pipe as they are.
extension RawFile: PipeSource {
  // Past the cache there are no pages to hand over.
  package var fillsPipes: Bool { !isDirect }

  package func fill(pipe descriptor: Int32, from range: ByteRange) async throws(BlockError) -> Int {
    try checkStage(.read)
    try checkRequest(.read, at: range.offset, length: range.length)
    let count = try await request(.read, range) { () async throws(SystemError) in
      try await loop.fill(pipe: descriptor, from: file, at: range.offset, byteCount: Int(range.length), in: lane)
    }
    if count > 0 || range.isEmpty { return count }
    throw BlockError(.io(errno: EIO), .read, range, cause: "the file has become shorter than it was")
  }
}
