import Bytes
import BlockCore
import Buffers

/// New images: the smallest set of tables, and nothing for the guest's bytes.
extension Qcow2Image {
  package struct BackingName: Hashable, Sendable {
    /// As the image shall hold it, usually relative to its own folder; at most 1023 bytes of UTF-8.
    package var name: String
    /// "qcow2", "raw", …: always written, as a format must not be guessed.
    package var format: String

    package init(name: String, format: String) {
      self.name = name
      self.format = format
    }
  }

  package struct CreateOptions: Hashable, Sendable {
    /// In bytes, a multiple of 512.
    package var virtualByteCount: UInt64
    /// A power of two from 512 to 2 MiB.
    package var clusterByteCount: Int
    package var compressionType: CompressionType
    package var backing: BackingName?
    /// A power of two from 1 to 64. With 1 bit clusters can't be shared, so compressed ones aren't packed.
    package var refcountBits: Int
    /// Each cluster is mapped in 32 parts, so that small writes copy little; clusters are 16 KiB or larger then.
    package var hasSubclusters: Bool
    /// What the image is, for whoever opens it: by this an image that took another's place is told from it. It stands in
    /// a header extension, which other programs keep.
    package var identity: UInt128?

    package init(
      virtualByteCount: UInt64, clusterByteCount: Int = 65536, compressionType: CompressionType = .zlib,
      backing: BackingName? = nil, refcountBits: Int = 16, hasSubclusters: Bool = false, identity: UInt128? = nil
    ) {
      self.identity = identity
      self.virtualByteCount = virtualByteCount
      self.clusterByteCount = clusterByteCount
      self.compressionType = compressionType
      self.backing = backing
      self.refcountBits = refcountBits
      self.hasSubclusters = hasSubclusters
    }
  }

  /// Writes an empty version 3 image over `file` and makes it durable; `open` it then.
  ///
  /// `file` is empty, or of a fixed size and then overwritten where the tables lie. The header is written last:
  /// what is cut off before is no image.
  package static func create(on file: any BlockDevice, options: CreateOptions) async throws(Qcow2Error) {
    let layout = try NewImage(options)
    let header = try layout.header.encoded()
    let cluster = layout.header.clusterByteCount
    let pool = BufferPool()
    let host = ImageFile(file, clusterByteCount: cluster, pool: pool)
    do {
      if file.byteCount < layout.byteCount { try await resize(file, to: layout.byteCount) }
      if !host.isPristine(0) { try await zero(host, layout.byteCount) }
      for number in 0..<layout.blockCount {
        let block = layout.block(number)
        try await host.write(block.span.bytes, at: (layout.firstBlock + number) * cluster)
      }
      try await host.write(layout.table.span.bytes, at: layout.header.refcountTableOffset)
      try await host.flush()
      try await host.write(header.span.bytes, at: 0)
      try await host.flush()
    } catch {
      throw .device(error)
    }
  }

  private static func resize(_ file: any BlockDevice, to byteCount: UInt64) async throws(BlockError) {
    let alignment = UInt64(file.limits.lengthAlignment)
    try await file.resize(to: ByteRange(offset: 0, length: byteCount).aligned(to: alignment).length)
  }

  /// Zeroes the place of the tables on a device that held something before.
  private static func zero(_ file: ImageFile, _ byteCount: UInt64) async throws(BlockError) {
    var offset: UInt64 = 0
    while offset < byteCount {
      let length = min(byteCount - offset, file.clusterByteCount)
      try await file.zero(ByteRange(offset: offset, length: length))
      offset += length
    }
  }
}

extension Qcow2Image {
  /// What the image was made as; nil where it doesn't say.
  package var identity: UInt128? {
    guard let contents = header.value.contents(ofExtension: HeaderExtension.Kind.identity), contents.count == 16 else {
      return nil
    }
    let bytes = contents.span.bytes
    return UInt128(bytes.bigEndian(UInt64.self, at: 0)) << 64 | UInt128(bytes.bigEndian(UInt64.self, at: 8))
  }
}

/// The layout of an empty image: header, refcount table, refcount blocks, L1 table, one after the other.
private struct NewImage {
  var header = Qcow2Header()
  var blockCount: UInt64 = 1
  private var tableClusterCount: UInt64 = 1
  private var l1ClusterCount: UInt64

  init(_ options: Qcow2Image.CreateOptions) throws(Qcow2Error) {
    try Self.check(options)
    header.clusterBits = options.clusterByteCount.trailingZeroBitCount
    header.refcountOrder = options.refcountBits.trailingZeroBitCount
    header.virtualByteCount = options.virtualByteCount
    header.compressionType = options.compressionType
    if options.compressionType != .zlib { header.incompatible.insert(.compressionType) }
    if options.hasSubclusters { header.incompatible.insert(.extendedL2) }
    let entryCount = max(header.l1EntryCount(for: options.virtualByteCount), 1)
    guard entryCount * 8 <= UInt64(Qcow2Header.maximumL1ByteCount) else {
      throw .invalidOption(
        "\(options.virtualByteCount) bytes need clusters larger than \(options.clusterByteCount) bytes")
    }
    header.l1EntryCount = Int(entryCount)
    let cluster = header.clusterByteCount
    l1ClusterCount = (entryCount * 8 + cluster - 1) / cluster
    if let backing = options.backing {
      header.backingName = Array(backing.name.utf8)
      header.extensions.append(
        HeaderExtension(type: HeaderExtension.Kind.backingFormat, contents: Array(backing.format.utf8)))
    }
    if let identity = options.identity {
      var contents: [UInt8] = []
      contents.append(bigEndian: UInt64(identity >> 64))
      contents.append(bigEndian: UInt64(truncatingIfNeeded: identity))
      header.extensions.append(HeaderExtension(type: HeaderExtension.Kind.identity, contents: contents))
    }
    addFeatureNames()
    let perBlock = RefcountWidth(order: header.refcountOrder).entryCount(in: cluster)
    while blockCount * perBlock < clusterCount || tableClusterCount * cluster / 8 < blockCount {
      if tableClusterCount * cluster / 8 < blockCount { tableClusterCount += 1 } else { blockCount += 1 }
    }
    header.refcountTableOffset = cluster
    header.refcountTableClusterCount = Int(tableClusterCount)
    header.l1Offset = (firstBlock + blockCount) * cluster
  }

  private static func check(_ options: Qcow2Image.CreateOptions) throws(Qcow2Error) {
    let cluster = options.clusterByteCount
    guard cluster > 0, cluster.nonzeroBitCount == 1,
      Qcow2Header.clusterBitsRange.contains(cluster.trailingZeroBitCount)
    else { throw .invalidOption("the cluster size \(cluster) is not a power of two from 512 to 2097152") }
    guard !options.hasSubclusters || cluster >= Qcow2Header.minimumSubclusteredByteCount else {
      throw .invalidOption("subclusters need clusters of at least 16384 bytes, not \(cluster)")
    }
    let bits = options.refcountBits
    guard (1...64).contains(bits), bits.nonzeroBitCount == 1 else {
      throw .invalidOption("the refcount width \(bits) is not a power of two from 1 to 64")
    }
    guard options.virtualByteCount % 512 == 0, options.virtualByteCount <= UInt64(Int64.max) else {
      throw .invalidOption("the size \(options.virtualByteCount) is not a multiple of 512 below 2^63")
    }
    if let backing = options.backing, backing.name.isEmpty || backing.format.isEmpty {
      throw .invalidOption("a backing file needs a name and a format")
    }
  }

  /// Names only serve messages: small clusters, where they could leave no room for the backing name, go without.
  private mutating func addFeatureNames() {
    let names = HeaderExtension(
      type: HeaderExtension.Kind.featureNames, contents: FeatureName.encode(FeatureName.known))
    if header.clusterByteCount >= 4096 { header.extensions.append(names) }
  }

  var firstBlock: UInt64 { 1 + tableClusterCount }
  private var clusterCount: UInt64 { 1 + tableClusterCount + blockCount + l1ClusterCount }
  var byteCount: UInt64 { clusterCount * header.clusterByteCount }

  /// The refcount table's used entries.
  var table: [UInt8] {
    var bytes: [UInt8] = []
    for number in 0..<blockCount { bytes.append(bigEndian: (firstBlock + number) * header.clusterByteCount) }
    return bytes
  }

  /// A refcount block, in which every cluster of the layout counts 1.
  func block(_ number: UInt64) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: Int(header.clusterByteCount))
    let width = RefcountWidth(order: header.refcountOrder)
    let perBlock = width.entryCount(in: header.clusterByteCount)
    let used = min(clusterCount - min(number * perBlock, clusterCount), perBlock)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    for index in 0..<Int(used) { width.store(1, in: &raw, at: index) }
    return bytes
  }
}
