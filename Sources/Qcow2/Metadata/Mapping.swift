import BlockCore

/// What a run of guest bytes is stored as: the answer of the cluster map, to be acted on outside of it.
struct Mapping: Hashable, Sendable {
  enum Target: Hashable, Sendable {
    /// Bytes of the file from `host` on, in one piece.
    case data(host: UInt64, isExclusive: Bool)
    /// Part of one compressed cluster.
    case compressed(CompressedPlace)
    /// Zeroes; `host` is the storage kept for the first of these bytes.
    case zero(host: UInt64?, isExclusive: Bool)
    /// Nothing in this image: the backing file's bytes, or zeroes.
    case unallocated
  }

  var guest: ByteRange
  var target: Target
}
