import BlockCore

/// What a run of guest bytes is stored as: the answer of the cluster map, to be acted on outside of it.
struct Mapping: Hashable, Sendable {
  enum Target: Hashable, Sendable {
    /// Bytes of the data file, which is the image's own unless it names another, from `host` on, in one piece.
    case data(host: UInt64, isExclusive: Bool)
    /// Part of one compressed cluster.
    case compressed(CompressedDescriptor)
    /// Zeroes; `host` is the storage kept for the first of these bytes.
    case zero(host: UInt64?, isExclusive: Bool)
    /// Nothing in this image: the backing file's bytes, or zeroes; `host` is storage that is there for the first of
    /// these bytes, as other subclusters of its cluster are allocated.
    case unallocated(host: UInt64? = nil, isExclusive: Bool = false)
  }

  var guest: ByteRange
  var target: Target
}
