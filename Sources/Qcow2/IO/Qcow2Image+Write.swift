import BlockCore
import Buffers

extension Qcow2Image {
  nonisolated(nonsending)
    package func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError)
  {
    try checkUsable(.write)
    try checkRequest(.write, at: offset, length: UInt64(bytes.byteCount))
    if bytes.byteCount == 0 { return }
    try await prepareToChange(.write)
    let range = ByteRange(offset: offset, length: UInt64(bytes.byteCount))
    var mode: RangeLock.Mode = map.isInPlace(range) ? .shared : .exclusive
    var hold = await ranges.acquire(clusters(range), mode)
    if mode == .shared, !map.isInPlace(range) {
      // It changed while we waited.
      ranges.release(hold)
      mode = .exclusive
      hold = await ranges.acquire(clusters(range), mode)
    }
    defer { ranges.release(hold) }
    try checkUsable(.write)
    let isForced = options.contains(.forceUnitAccess)
    // The file can force bytes in place only; a mapping becomes durable by a flush.
    let passesForce = isForced && mode == .shared && map.isDurable
    try await write(bytes, at: offset, inPlace: passesForce ? .forceUnitAccess : [])
    try await map.commitIfNeeded()
    if isForced, !passesForce { try await map.flush() }
  }

  /// Writes through the mappings, of which only those may change that the caller holds exclusively.
  nonisolated(nonsending)
    func write(_ bytes: RawSpan, at offset: UInt64, inPlace options: WriteOptions = []) async throws(BlockError)
  {
    var done = 0
    while done < bytes.byteCount {
      let mapping = try await map.mapping(
        at: offset + UInt64(done), upTo: UInt64(bytes.byteCount - done), .write)
      if case .data(let host, isExclusive: true) = mapping.target {
        let end = done + Int(mapping.guest.length)
        try refcounts.checkNotMetadata(ByteRange(offset: host, length: mapping.guest.length))
        try await file.write(bytes.extracting(done..<end), at: host, options: options)
        done = end
      } else {
        done += try await writeToNewClusters(bytes.extracting(done..<done + Int(mapping.guest.length)), mapping)
      }
    }
  }

  /// Stores bytes whose clusters can't be written in place; returns how many, up to the end of one allocated run.
  nonisolated(nonsending)
    private func writeToNewClusters(_ bytes: RawSpan, _ mapping: Mapping) async throws(BlockError) -> Int
  {
    let covered = clusters(mapping.guest)
    let wanted = covered.length / file.clusterByteCount
    let kept = keptRun(mapping, wanted)
    let run: ClusterRun
    if let kept { run = kept } else { run = try await refcounts.allocate(upTo: wanted) }
    let end = min(mapping.guest.end, covered.offset + run.count * file.clusterByteCount)
    let length = Int(end - mapping.guest.offset)
    var mapped: UInt64 = 0
    do {
      try await fill(run, with: bytes.extracting(0..<length), mapping)
      let first = covered.offset / file.clusterByteCount
      while mapped < run.count {
        let host = run.dropping(mapped).first
        let start = first + mapped
        mapped += try await map.update(from: start, count: run.count - mapped, .write) { cluster, _ in
          .data(at: (host + cluster - start) << self.refcounts.clusterBits)
        }
      }
      expanded.forget(first..<first + run.count)
    } catch {
      if kept == nil { try? await release(run.dropping(mapped)) }
      throw error
    }
    return length
  }

  /// The clusters that are kept for zeroes, if the mapping has such that nobody shares.
  private func keptRun(_ mapping: Mapping, _ count: UInt64) -> ClusterRun? {
    guard case .zero(let host?, isExclusive: true) = mapping.target else { return nil }
    return ClusterRun(first: host / file.clusterByteCount, count: count)
  }

  /// Gives clusters back that nothing refers to.
  nonisolated(nonsending)
    func release(_ run: ClusterRun) async throws(BlockError)
  {
    var runs = [run]
    try await refcounts.release(&runs, givingBack: false)
  }

  /// Fills host clusters: with `bytes`, and around them with what the guest clusters hold so far.
  nonisolated(nonsending)
    private func fill(_ run: ClusterRun, with bytes: RawSpan, _ mapping: Mapping) async throws(BlockError)
  {
    let cluster = file.clusterByteCount
    let host = ByteRange(offset: run.first * cluster, length: run.count * cluster)
    try refcounts.checkNotMetadata(host)
    let head = Int(mapping.guest.offset % cluster)
    let tail = Int(host.length) - head - bytes.byteCount
    if head + tail == 0 || (file.isPristine(host.offset) && readsAsZeroes(around: mapping)) {
      return try await file.write(bytes, at: host.offset + UInt64(head))
    }
    if run.count == 1 {
      return try await fillCluster(at: host.offset, with: bytes, head: head, tail: tail, mapping)
    }
    var start = 0
    var end = bytes.byteCount
    if head > 0 {
      start = Int(cluster) - head
      try await fillCluster(at: host.offset, with: bytes.extracting(0..<start), head: head, tail: 0, mapping)
    }
    if tail > 0 {
      end -= Int(cluster) - tail
      try await fillCluster(
        at: host.end - cluster, with: bytes.extracting(end..<bytes.byteCount), head: 0, tail: tail, mapping)
    }
    try await file.write(bytes.extracting(start..<end), at: host.offset + UInt64(head + start))
  }

  /// True if the guest clusters that a mapping touches hold nothing but zeroes besides its bytes.
  private func readsAsZeroes(around mapping: Mapping) -> Bool {
    switch mapping.target {
    case .zero: true
    case .unallocated: (backing?.byteCount ?? 0) <= clusters(mapping.guest).offset
    case .data, .compressed: false
    }
  }

  /// Writes one host cluster: `head` old bytes, the new ones, `tail` old ones.
  nonisolated(nonsending)
    private func fillCluster(
      at host: UInt64, with bytes: RawSpan, head: Int, tail: Int, _ mapping: Mapping
    ) async throws(BlockError)
  {
    var buffer = file.pool.take(clusterByteCount)
    var all = buffer.mutableBytes
    if head > 0 {
      var part = all.part(0..<head)
      try await readOld(mapping, from: mapping.guest.offset - UInt64(head), into: &part)
    }
    if tail > 0 {
      let start = clusterByteCount - tail
      var part = all.part(start..<clusterByteCount)
      try await readOld(mapping, from: mapping.guest.end, into: &part)
    }
    all.copy(from: bytes, at: head)
    try await file.write(buffer.bytes.extracting(0..<clusterByteCount), at: host)
  }

  /// Reads what a guest cluster at the edge of `mapping` holds from `offset` on; zeroes past the image's end.
  nonisolated(nonsending)
    private func readOld(
      _ mapping: Mapping, from offset: UInt64, into part: inout MutableRawSpan
    ) async throws(BlockError)
  {
    let available = offset < byteCount ? Int(min(UInt64(part.byteCount), byteCount - offset)) : 0
    if available < part.byteCount { part.zero(available..<part.byteCount) }
    if available == 0 { return }
    var old = mapping
    old.guest = ByteRange(offset: offset, length: UInt64(available))
    if case .data(let host, let isExclusive) = mapping.target {
      old.target = .data(host: host + offset - mapping.guest.offset, isExclusive: isExclusive)
    }
    var bytes = part.part(0..<available)
    try await read(old, into: &bytes)
  }
}
