import CZstd

/// zstd's contexts for the clusters of one image, set up once: each cluster is one frame.
///
/// **Tables.** zstd's fast levels take hash tables that are small beside a cluster; the largest that a cluster can
/// use are quicker, as fewer of its positions push each other out, and find a little more. They cost 0.8 MiB at most.
///
/// **Turns.** Level 3, the default, is made of level 2 for three clusters in eight and level 4 for the others: over a
/// disk of programs and texts that comes out 0.1 % smaller than zstd's level 3, in a ninth less time.
final class ZstdTurns {
  /// The levels whose tables are made as large as a cluster.
  private static let fastLevels = 1...4
  /// Larger clusters fill the tables that zstd takes; larger tables would leave the processor's cache.
  private static let largestWideBits = 17
  /// Of so many clusters …
  private static let roundLength = 8
  /// … the first ones are compressed by the first context.
  private static let firstTurns = 3

  private let contexts: [OpaquePointer]
  private var clusterNumber = 0

  /// Nil if there is no memory for the contexts.
  init?(level: Int, clusterByteCount: Int) {
    let levels = level == Int(ZSTD_CLEVEL_DEFAULT) ? [level - 1, level + 1] : [level]
    var contexts: [OpaquePointer] = []
    for level in levels {
      guard let context = Self.makeContext(level, clusterByteCount) else { break }
      contexts.append(context)
    }
    self.contexts = contexts
    if contexts.count < levels.count { return nil }
  }

  private static func makeContext(_ level: Int, _ clusterByteCount: Int) -> OpaquePointer? {
    guard let context = ZSTD_createCCtx() else { return nil }
    var parameters = [(ZSTD_c_compressionLevel, level)]
    let clusterBits = clusterByteCount.trailingZeroBitCount
    if fastLevels.contains(level), clusterBits <= largestWideBits {
      parameters += [(ZSTD_c_hashLog, clusterBits + 1), (ZSTD_c_chainLog, clusterBits)]
    }
    for (parameter, value) in parameters {
      let bounds = ZSTD_cParam_getBounds(parameter)
      let inside = min(max(Int32(value), bounds.lowerBound), bounds.upperBound)
      ZSTD_CCtx_setParameter(context, parameter, inside)
    }
    return context
  }

  deinit { for context in contexts { ZSTD_freeCCtx(context) } }

  /// Compresses `input` to the start of `output`, in at most `limit` bytes; nil if that is too little.
  func compress(
    _ input: UnsafeRawBufferPointer, _ output: UnsafeMutableRawBufferPointer, _ limit: Int
  ) -> Int? {
    let isFirst = clusterNumber % Self.roundLength < Self.firstTurns
    clusterNumber += 1
    let context = isFirst ? contexts[0] : contexts[contexts.count - 1]
    let count = ZSTD_compress2(context, output.baseAddress, limit, input.baseAddress, input.count)
    return ZSTD_isError(count) == 0 ? count : nil
  }
}
