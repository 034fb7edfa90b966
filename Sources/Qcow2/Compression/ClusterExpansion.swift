import CZlib
import CZstd
import Locks

/// Expands one compressed cluster from bytes of any origin: the output is one cluster and never more, and
/// no memory is taken by what the input says.
enum ClusterExpansion {
  /// The largest window of raw deflate; what QEMU writes needs 12 bits.
  private static let zlibWindowBits: Int32 = -15
  private static let contexts = ExpansionContexts()

  /// Fills `output` from the start of `input`, which may end in padding or rubbish.
  ///
  /// - Returns: false if the input doesn't hold a whole cluster.
  static func expand(_ type: CompressionType, _ input: RawSpan, into output: inout MutableRawSpan) -> Bool {
    output.withUnsafeMutableBytes { output in
      input.withUnsafeBytes { input in
        switch type {
        case .zlib: inflate(input, output)
        case .zstd: expandFrames(input, output)
        }
      }
    }
  }

  private static func inflate(_ input: UnsafeRawBufferPointer, _ output: UnsafeMutableRawBufferPointer) -> Bool {
    var stream = z_stream()
    guard inflateInit2_(&stream, zlibWindowBits, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size)) == Z_OK else {
      return false
    }
    defer { inflateEnd(&stream) }
    stream.next_in = UnsafeMutablePointer(mutating: input.baseAddress?.assumingMemoryBound(to: UInt8.self))
    stream.avail_in = UInt32(input.count)
    stream.next_out = output.baseAddress?.assumingMemoryBound(to: UInt8.self)
    stream.avail_out = UInt32(output.count)
    let result = CZlib.inflate(&stream, Z_FINISH)
    // A full output with input left over is reported as a lack of room.
    return stream.avail_out == 0 && (result == Z_STREAM_END || result == Z_BUF_ERROR || result == Z_OK)
  }

  /// A cluster may be several frames. Each is expanded straight into the output, without a window of its own.
  private static func expandFrames(_ input: UnsafeRawBufferPointer, _ output: UnsafeMutableRawBufferPointer) -> Bool {
    guard let source = input.baseAddress, let target = output.baseAddress else { return false }
    return contexts.with { expandFrames(source, input.count, target, output.count, $0) } ?? false
  }

  private static func expandFrames(
    _ source: UnsafeRawPointer, _ inputByteCount: Int, _ target: UnsafeMutableRawPointer, _ outputByteCount: Int,
    _ context: OpaquePointer
  ) -> Bool {
    var consumed = 0
    var produced = 0
    while produced < outputByteCount, consumed < inputByteCount {
      let frame = ZSTD_findFrameCompressedSize(source + consumed, inputByteCount - consumed)
      guard ZSTD_isError(frame) == 0, frame > 0 else { return false }
      let count = ZSTD_decompressDCtx(
        context, target + produced, outputByteCount - produced, source + consumed, frame)
      guard ZSTD_isError(count) == 0 else { return false }
      consumed += frame
      produced += count
    }
    return produced == outputByteCount
  }
}

/// Lends zstd's contexts, one to each thread that expands at the time: making one costs a tenth of expanding a cluster.
///
/// They keep nothing of what they expanded: each frame begins anew. There are never more than threads that expand.
private final class ExpansionContexts: @unchecked Sendable {
  // Safe to share: a context is in `free` or with the one thread that took it.
  private let free = Lock<[OpaquePointer]>([])

  deinit { free.withLock { for context in $0 { ZSTD_freeDCtx(context) } } }

  /// Nil if there is no memory for a context.
  func with<Result>(_ body: (OpaquePointer) -> Result) -> Result? {
    let taken: UInt = free.withLock { UInt(bitPattern: $0.popLast()) }
    guard let context = OpaquePointer(bitPattern: taken) ?? ZSTD_createDCtx() else { return nil }
    defer {
      let address = UInt(bitPattern: context)
      free.withLock { free in
        if let context = OpaquePointer(bitPattern: address) { free.append(context) }
      }
    }
    return body(context)
  }
}
