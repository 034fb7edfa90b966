import BlockCore
import Buffers

/// Zeroes and discards: whole clusters or subclusters by their entries alone, the rest as bytes.
extension Qcow2Image {
  package func writeZeroes(_ range: ByteRange, options: ZeroOptions) async throws(BlockError) {
    try checkChangeable(.writeZeroes)
    try checkRequest(.writeZeroes, at: range.offset, length: range.length)
    if range.isEmpty { return }
    try await prepareToChange(.writeZeroes)
    let hold = await ranges.acquire(clusters(range), .exclusive)
    defer { ranges.release(hold) }
    try checkChangeable(.writeZeroes)
    let mayUnmap = options.contains(.mayUnmap)
    if options.contains(.onlyIfFast) { try await checkFast(range, mayUnmap: mayUnmap) }
    try await zero(range, mayUnmap: mayUnmap)
    if options.contains(.forceUnitAccess) { try await map.flush() }
  }

  package func discard(_ range: ByteRange) async throws(BlockError) {
    try checkChangeable(.discard)
    try checkRequest(.discard, at: range.offset, length: range.length)
    guard !range.isEmpty else { return }
    try await prepareToChange(.discard)
    guard !wholeUnits(range).isEmpty else { return }
    let hold = await ranges.acquire(clusters(range), .exclusive)
    defer { ranges.release(hold) }
    try checkChangeable(.discard)
    // Of a compressed cluster, no part can go.
    let (whole, _) = try await apartFromCompressed(wholeUnits(range), .discard)
    try await drop(whole, .discard)
  }

  /// Makes whole units read as zeroes that take no storage; in version 2, those that no backing file is behind.
  func drop(_ whole: ByteRange, _ operation: BlockError.Operation) async throws(BlockError) {
    let hasZeroClusters = header.value.version >= 3
    try await zeroDataFile(whole, mayUnmap: true)
    try await change(whole, operation) { cluster, old in
      let isBacked = self.isBacked(cluster)
      if old.isUnallocated, !isBacked { return nil }
      if isBacked, !hasZeroClusters { return nil }
      if self.map.format.hasSubclusters {
        let mask = self.subclusters(of: cluster, in: whole)
        if mask == L2Entry.allSubclusters, !isBacked { return .unallocated }
        return self.zeroed(old, mask, isBacked: isBacked, mayUnmap: true)
      }
      return isBacked ? .zero : .unallocated
    }
  }

  /// An extended entry with these subclusters zero; nil where nothing changes.
  private func zeroed(_ old: L2Entry, _ mask: UInt32, isBacked: Bool, mayUnmap: Bool) -> L2Entry? {
    if old.isUnallocated, !isBacked { return nil }
    var new = old.zeroing(mask)
    // Nothing is left in the host cluster.
    if new.allocated == 0, mayUnmap || !new.isExclusive { new.raw = 0 }
    return new == old ? nil : new
  }

  /// What external data files hold is what the guest reads, to programs that take them for raw images.
  private func zeroDataFile(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
    let end = min(range.end, data.byteCount, byteCount)
    guard map.format.hasDataFile, range.offset < end else { return }
    try await data.zero(ByteRange(range.offset..<end), options: mayUnmap ? .mayUnmap : [])
  }

  /// Whole units without those parts of compressed clusters that can't change apart from the rest, and these parts.
  private func apartFromCompressed(
    _ whole: ByteRange, _ operation: BlockError.Operation
  ) async throws(BlockError) -> (whole: ByteRange, parts: [ByteRange]) {
    var whole = whole
    var parts: [ByteRange] = []
    guard map.format.hasSubclusters, !whole.isEmpty else { return (whole, parts) }
    let first = clusters(ByteRange(offset: whole.offset, length: 1))
    if first.offset < whole.offset || first.end > whole.end {
      if case .compressed = try await map.mapping(at: whole.offset, upTo: 1, operation).target {
        let end = min(first.end, whole.end)
        parts.append(ByteRange(whole.offset..<end))
        whole = ByteRange(end..<whole.end)
      }
    }
    let last = clusters(ByteRange(offset: max(whole.end, 1) - 1, length: 1))
    if !whole.isEmpty, last.end > whole.end, last.offset >= whole.offset {
      if case .compressed = try await map.mapping(at: last.offset, upTo: 1, operation).target {
        parts.append(ByteRange(last.offset..<whole.end))
        whole = ByteRange(whole.offset..<last.offset)
      }
    }
    return (whole, parts)
  }

  /// Makes a range read as zeroes whose clusters the caller holds.
  func zero(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
    let units = wholeUnits(range)
    guard !units.isEmpty else { return try await writeZeroBytes(range) }
    try await writeZeroBytes(ByteRange(range.offset..<units.offset))
    if units.end < range.end { try await writeZeroBytes(ByteRange(units.end..<range.end)) }
    let (whole, parts) = try await apartFromCompressed(units, .writeZeroes)
    // Whole units may end behind the range, never what has to read as zeroes. While the disk grows, the range itself
    // lies behind `byteCount`.
    for part in parts { try await writeZeroBytes(ByteRange(part.offset..<min(part.end, range.end))) }
    if header.value.version >= 3 {
      try await zeroDataFile(whole, mayUnmap: mayUnmap)
      try await change(whole, .writeZeroes) { cluster, old in
        guard self.map.format.hasSubclusters else { return self.zeroEntry(cluster, old, mayUnmap: mayUnmap) }
        let mask = self.subclusters(of: cluster, in: whole)
        return self.zeroed(old, mask, isBacked: self.isBacked(cluster), mayUnmap: mayUnmap)
      }
    } else {
      try await zeroWithoutZeroClusters(whole, mayUnmap: mayUnmap)
    }
  }

  /// The standard entry that makes a cluster read as zeroes; nil where it does so already.
  private func zeroEntry(_ cluster: UInt64, _ old: L2Entry, mayUnmap: Bool) -> L2Entry? {
    if old.isUnallocated { return isBacked(cluster) ? .zero : nil }
    if old.isCompressed { return .zero }
    if old.raw & L2Entry.zeroFlag != 0 { return mayUnmap && old.host != 0 ? .zero : nil }
    return old.isExclusive && !mayUnmap ? .zero(keeping: old.host) : .zero
  }

  /// Version 2: clusters may be dropped where no backing file would show; the others are filled with zeroes.
  private func zeroWithoutZeroClusters(_ whole: ByteRange, mayUnmap: Bool) async throws(BlockError) {
    let backedEnd = ByteRange(offset: 0, length: backing?.byteCount ?? 0).aligned(to: file.clusterByteCount).length
    let start = mayUnmap ? min(max(backedEnd, whole.offset), whole.end) : whole.end
    let filledEnd = min(start, byteCount)
    if filledEnd > whole.offset { try await writeZeroBytes(ByteRange(whole.offset..<filledEnd)) }
    if start < whole.end { try await change(ByteRange(start..<whole.end), .writeZeroes) { _, _ in .unallocated } }
  }

  /// True if the backing file holds bytes of the guest cluster.
  func isBacked(_ cluster: UInt64) -> Bool { (backing?.byteCount ?? 0) > cluster * file.clusterByteCount }

  /// The whole subclusters or clusters in a range. The image's last cluster counts as whole if the range reaches its
  /// end.
  func wholeUnits(_ range: ByteRange) -> ByteRange {
    let unit: UInt64 = 1 << map.unitBits
    let start = ByteRange(offset: 0, length: range.offset).aligned(to: unit).length
    let end = range.end >= byteCount ? clusters(range).end : range.end / unit * unit
    return start < end ? ByteRange(start..<end) : ByteRange(offset: range.end, length: 0)
  }

  /// Changes the entries of all clusters that whole units lie in, skipping stretches without a table that stay as they are.
  private func change(
    _ whole: ByteRange, _ operation: BlockError.Operation, _ entry: (UInt64, L2Entry) -> L2Entry?
  ) async throws(BlockError) {
    var offset = whole.offset
    while offset < whole.end {
      let mapping = try await map.mapping(at: offset, upTo: whole.end - offset, operation)
      let first = offset / file.clusterByteCount
      let count = clusters(mapping.guest).length / file.clusterByteCount
      if case .unallocated(nil, _) = mapping.target, entry(first, .unallocated) == nil {
        offset = mapping.guest.end
        continue
      }
      let done = try await map.update(from: first, count: count, operation, entry)
      expanded.forget(first..<first + done)
      offset = (first + done) * file.clusterByteCount
      try await map.commitIfNeeded()
    }
  }

  /// Writes zeroes as data where a range doesn't read as zeroes yet. The caller holds its clusters.
  private func writeZeroBytes(_ range: ByteRange) async throws(BlockError) {
    var offset = range.offset
    while offset < range.end {
      let length = min(range.end - offset, max(file.clusterByteCount, Self.zeroChunkByteCount))
      let mapping = try await map.mapping(at: offset, upTo: length, .writeZeroes)
      let (part, isZero) = try await zeroStatus(mapping)
      if !isZero {
        var zeroes = file.pool.take(Int(part.length))
        var all = zeroes.mutableBytes
        all.zero()
        try await write(zeroes.bytes.extracting(0..<Int(part.length)), at: offset)
        try await map.commitIfNeeded()
      }
      offset = part.end
    }
  }

  private static let zeroChunkByteCount: UInt64 = 1 << 20

  /// The first part of a mapping that is stored in one way in the whole chain, and whether tables tell that it reads
  /// as zeroes.
  private func zeroStatus(_ mapping: Mapping) async throws(BlockError) -> (part: ByteRange, isZero: Bool) {
    switch mapping.target {
    case .zero: return (mapping.guest, true)
    case .data, .compressed: return (mapping.guest, false)
    case .unallocated:
      guard let first = try await backingExtents(mapping.guest, limit: 1).first else { return (mapping.guest, false) }
      return (first.range, first.readsAsZero)
    }
  }

  /// Throws if zeroing the range would mean to write zeroes as data.
  private func checkFast(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
    var offset = range.offset
    let (whole, parts) = try await apartFromCompressed(wholeUnits(range), .writeZeroes)
    if !parts.isEmpty { throw BlockError(.notFast, .writeZeroes, range) }
    if header.value.version >= 3, whole.offset <= offset, whole.end >= range.end { return }
    while offset < range.end {
      let mapping = try await map.mapping(at: offset, upTo: range.end - offset, .writeZeroes)
      let isWhole = whole.contains(mapping.guest) && (header.value.version >= 3 || (mayUnmap && backing == nil))
      let (part, isZero) = isWhole ? (mapping.guest, true) : try await zeroStatus(mapping)
      guard isZero else { throw BlockError(.notFast, .writeZeroes, range) }
      offset = offset < whole.offset ? min(part.end, whole.offset) : part.end
      if whole.range.contains(offset), header.value.version >= 3 { offset = min(whole.end, range.end) }
    }
  }
}

extension L2Entry {
  /// Reads as zeroes; the host cluster stays allocated.
  fileprivate static func zero(keeping host: UInt64) -> L2Entry { L2Entry(raw: copiedFlag | host | zeroFlag) }
}
