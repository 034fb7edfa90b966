import BlockCore
import Buffers

extension Qcow2Image {
  nonisolated(nonsending)
    package func writeZeroes(_ range: ByteRange, options: ZeroOptions) async throws(BlockError)
  {
    try checkUsable(.writeZeroes)
    try checkRequest(.writeZeroes, at: range.offset, length: range.length)
    if range.isEmpty { return }
    try await prepareToChange(.writeZeroes)
    let hold = await ranges.acquire(clusters(range), .exclusive)
    defer { ranges.release(hold) }
    try checkUsable(.writeZeroes)
    let mayUnmap = options.contains(.mayUnmap)
    if options.contains(.onlyIfFast) { try await checkFast(range, mayUnmap: mayUnmap) }
    try await zero(range, mayUnmap: mayUnmap)
    if options.contains(.forceUnitAccess) { try await map.flush() }
  }

  nonisolated(nonsending)
    package func discard(_ range: ByteRange) async throws(BlockError)
  {
    try checkUsable(.discard)
    try checkRequest(.discard, at: range.offset, length: range.length)
    guard !range.isEmpty else { return }
    try await prepareToChange(.discard)
    let whole = wholeClusters(range)
    guard !whole.isEmpty else { return }
    let hold = await ranges.acquire(whole, .exclusive)
    defer { ranges.release(hold) }
    try checkUsable(.discard)
    let hasZeroClusters = header.value.version >= 3
    try await change(whole, .discard) { cluster, old in
      let isBacked = self.isBacked(cluster)
      if case .unallocated = old, !isBacked { return nil }
      if isBacked { return hasZeroClusters ? .zero : nil }
      return .unallocated
    }
  }

  /// Makes a range read as zeroes whose clusters the caller holds.
  nonisolated(nonsending)
    func zero(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError)
  {
    let whole = wholeClusters(range)
    guard !whole.isEmpty else { return try await writeZeroBytes(range) }
    try await writeZeroBytes(ByteRange(range.offset..<whole.offset))
    if whole.end < range.end { try await writeZeroBytes(ByteRange(whole.end..<range.end)) }
    if header.value.version >= 3 {
      try await change(whole, .writeZeroes) { cluster, old in self.zeroEntry(cluster, old, mayUnmap: mayUnmap) }
    } else {
      try await zeroWithoutZeroClusters(whole, mayUnmap: mayUnmap)
    }
  }

  /// The entry that makes a cluster read as zeroes; nil where it does so already.
  private func zeroEntry(_ cluster: UInt64, _ old: L2Entry.Meaning, mayUnmap: Bool) -> L2Entry? {
    switch old {
    case .unallocated: isBacked(cluster) ? .zero : nil
    case .zero(let host, _): mayUnmap && host != nil ? .zero : nil
    case .data(let host, isExclusive: true) where !mayUnmap: .zero(keeping: host)
    case .data, .compressed, .damaged: .zero
    }
  }

  /// Version 2: clusters may be dropped where no backing file would show; the others are filled with zeroes.
  nonisolated(nonsending)
    private func zeroWithoutZeroClusters(_ whole: ByteRange, mayUnmap: Bool) async throws(BlockError)
  {
    let backedEnd = ByteRange(offset: 0, length: backing?.byteCount ?? 0).aligned(to: file.clusterByteCount).length
    let start = mayUnmap ? min(max(backedEnd, whole.offset), whole.end) : whole.end
    let filledEnd = min(start, byteCount)
    if filledEnd > whole.offset { try await writeZeroBytes(ByteRange(whole.offset..<filledEnd)) }
    if start < whole.end { try await change(ByteRange(start..<whole.end), .writeZeroes) { _, _ in .unallocated } }
  }

  /// True if the backing file holds bytes of the guest cluster.
  func isBacked(_ cluster: UInt64) -> Bool { (backing?.byteCount ?? 0) > cluster * file.clusterByteCount }

  /// The whole clusters in a range. The last cluster of the image counts as whole if the range reaches its end.
  private func wholeClusters(_ range: ByteRange) -> ByteRange {
    let cluster = file.clusterByteCount
    let start = ByteRange(offset: 0, length: range.offset).aligned(to: cluster).length
    let end = range.end >= byteCount ? clusters(range).end : range.end / cluster * cluster
    return start < end ? ByteRange(start..<end) : ByteRange(offset: range.end, length: 0)
  }

  /// Changes the entries of whole clusters, skipping stretches without a table that stay as they are.
  nonisolated(nonsending)
    private func change(
      _ whole: ByteRange, _ operation: BlockError.Operation, _ entry: (UInt64, L2Entry.Meaning) -> L2Entry?
    ) async throws(BlockError)
  {
    var offset = whole.offset
    while offset < whole.end {
      let mapping = try await map.mapping(at: offset, upTo: whole.end - offset, operation)
      let first = offset / file.clusterByteCount
      let count = mapping.guest.length / file.clusterByteCount
      if case .unallocated = mapping.target, entry(first, .unallocated) == nil {
        offset = mapping.guest.end
        continue
      }
      let done = try await map.update(from: first, count: count, operation, entry)
      expanded.forget(first..<first + done)
      offset += done * file.clusterByteCount
      try await map.commitIfNeeded()
    }
  }

  /// Writes zeroes as data where a range doesn't read as zeroes yet. The caller holds its clusters.
  nonisolated(nonsending)
    private func writeZeroBytes(_ range: ByteRange) async throws(BlockError)
  {
    var offset = range.offset
    while offset < range.end {
      let length = min(range.end - offset, max(file.clusterByteCount, Self.zeroChunkByteCount))
      let mapping = try await map.mapping(at: offset, upTo: length, .writeZeroes)
      if !readsAsZeroes(mapping) {
        var zeroes = file.pool.take(Int(mapping.guest.length))
        var all = zeroes.mutableBytes
        all.zero()
        try await write(zeroes.bytes.extracting(0..<Int(mapping.guest.length)), at: offset)
        try await map.commitIfNeeded()
      }
      offset = mapping.guest.end
    }
  }

  private static let zeroChunkByteCount: UInt64 = 1 << 20

  private func readsAsZeroes(_ mapping: Mapping) -> Bool {
    switch mapping.target {
    case .zero: true
    case .unallocated: (backing?.byteCount ?? 0) <= mapping.guest.offset
    case .data, .compressed: false
    }
  }

  /// Throws if zeroing the range would mean to write zeroes as data.
  nonisolated(nonsending)
    private func checkFast(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError)
  {
    var offset = range.offset
    let whole = wholeClusters(range)
    if header.value.version >= 3, whole.offset <= offset, whole.end >= range.end { return }
    while offset < range.end {
      let mapping = try await map.mapping(at: offset, upTo: range.end - offset, .writeZeroes)
      let isWhole = whole.contains(mapping.guest) && (header.value.version >= 3 || (mayUnmap && backing == nil))
      guard isWhole || readsAsZeroes(mapping) else { throw BlockError(.notFast, .writeZeroes, range) }
      offset = offset < whole.offset ? min(mapping.guest.end, whole.offset) : mapping.guest.end
      if whole.range.contains(offset), header.value.version >= 3 { offset = min(whole.end, range.end) }
    }
  }
}

extension L2Entry {
  /// Reads as zeroes; the host cluster stays allocated.
  fileprivate static func zero(keeping host: UInt64) -> L2Entry { L2Entry(raw: copiedFlag | host | zeroFlag) }
}
