import CZlib
import CZstd

/// Compresses clusters for one image: the context of the codec, made once and used again. Each guest cluster is
/// compressed by itself, as raw deflate or as a zstd frame (qcow2.txt, "Compressed Clusters Descriptor").
///
/// Used by one thread at a time; each worker has its own.
package final class ClusterCompressor: @unchecked Sendable {
  // Safe to hand over: it owns its codec context, and its user runs it on one thread at a time.

  /// What QEMU writes: raw deflate with a window of 4 KiB (qcow2 readers need no more than that).
  private static let zlibWindowBits: Int32 = -12
  private static let zlibMemoryLevel: Int32 = 9
  package static let zlibLevels = 1...9
  package static let zstdLevels = 1...19

  private enum Codec {
    case zlib(UnsafeMutablePointer<z_stream>)
    case zstd(ZstdTurns)
  }

  package let clusterByteCount: Int
  private let codec: Codec

  /// - Parameters:
  ///   - level: in ``zlibLevels`` or ``zstdLevels``; nil for the codec's default.
  ///   - clusterByteCount: what every call is given.
  package init(type: CompressionType, level: Int? = nil, clusterByteCount: Int) throws(Qcow2Error) {
    self.clusterByteCount = clusterByteCount
    switch type {
    case .zlib:
      let level = level ?? Int(Z_DEFAULT_COMPRESSION)
      guard level == Int(Z_DEFAULT_COMPRESSION) || Self.zlibLevels.contains(level) else {
        throw .invalidOption("zlib has levels \(Self.zlibLevels), not \(level)")
      }
      let stream = UnsafeMutablePointer<z_stream>.allocate(capacity: 1)
      stream.initialize(to: z_stream())
      let result = deflateInit2_(
        stream, Int32(level), Z_DEFLATED, Self.zlibWindowBits, Self.zlibMemoryLevel, Z_DEFAULT_STRATEGY,
        ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size))
      guard result == Z_OK else {
        stream.deallocate()
        throw .invalidOption("zlib can't be set up (\(result))")
      }
      codec = .zlib(stream)
    case .zstd:
      let level = level ?? Int(ZSTD_CLEVEL_DEFAULT)
      guard Self.zstdLevels.contains(level) else {
        throw .invalidOption("zstd has levels \(Self.zstdLevels), not \(level)")
      }
      guard let turns = ZstdTurns(level: level, clusterByteCount: clusterByteCount) else {
        throw .invalidOption("zstd can't be set up")
      }
      codec = .zstd(turns)
    }
  }

  deinit {
    switch codec {
    case .zlib(let stream):
      deflateEnd(stream)
      stream.deallocate()
    case .zstd: break
    }
  }

  /// Compresses one whole cluster to the start of `output`, which has room for a cluster.
  ///
  /// - Returns: the bytes written, or nil if the cluster doesn't shrink: then it is stored as it is.
  package func compress(_ cluster: RawSpan, into output: inout MutableRawSpan) -> Int? {
    precondition(cluster.byteCount == clusterByteCount && output.byteCount >= clusterByteCount)
    let limit = clusterByteCount - 1
    return output.withUnsafeMutableBytes { output in
      cluster.withUnsafeBytes { input in
        switch codec {
        case .zlib(let stream): Self.deflate(stream, input, output, limit)
        case .zstd(let turns): turns.compress(input, output, limit)
        }
      }
    }
  }

  private static func deflate(
    _ stream: UnsafeMutablePointer<z_stream>, _ input: UnsafeRawBufferPointer,
    _ output: UnsafeMutableRawBufferPointer, _ limit: Int
  ) -> Int? {
    guard deflateReset(stream) == Z_OK else { return nil }
    stream.pointee.next_in = UnsafeMutablePointer(
      mutating: input.baseAddress?.assumingMemoryBound(to: UInt8.self))
    stream.pointee.avail_in = UInt32(input.count)
    stream.pointee.next_out = output.baseAddress?.assumingMemoryBound(to: UInt8.self)
    stream.pointee.avail_out = UInt32(limit)
    guard CZlib.deflate(stream, Z_FINISH) == Z_STREAM_END else { return nil }
    return limit - Int(stream.pointee.avail_out)
  }
}
