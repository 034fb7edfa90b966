import BlockCore
import Buffers

/// Writes that change the mapping: to new clusters, or to storage that is there and holds nothing yet.
extension Qcow2Image {
  /// Where bytes that can't be written in place go.
  private struct Placement {
    /// Host clusters for the guest clusters from `first` on.
    var run: ClusterRun
    let first: UInt64
    /// The bytes' guest range, and the whole units (subclusters or clusters) that are stored with them.
    let guest: ByteRange
    let units: ByteRange
    /// The run was allocated for this write: it is given back if that fails.
    let isNew: Bool
  }

  /// Stores bytes whose units can't be written in place; returns how many, up to the end of one allocated run.
  func writeToNewClusters(_ bytes: RawSpan, _ mapping: Mapping) async throws(BlockError) -> Int {
    let place = try await placement(of: mapping)
    let length = Int(place.guest.length)
    var mapped: UInt64 = 0
    do {
      if moves(mapping) { try await moveOthers(besides: place.units, of: place.first, to: place.run.first) }
      try await fill(place, with: bytes.extracting(0..<length), mapping)
      while mapped < place.run.count {
        let host = place.run.dropping(mapped).first
        let start = place.first + mapped
        mapped += try await map.update(from: start, count: place.run.count - mapped, .write) { cluster, old in
          let offset = (host + cluster - start) << self.map.clusterBits
          guard self.map.format.hasSubclusters else { return .data(at: offset) }
          return old.storing(self.subclusters(of: cluster, in: place.units), at: offset)
        }
      }
      expanded.forget(place.first..<place.first + place.run.count)
    } catch {
      if place.isNew { try? await release(place.run.dropping(mapped)) }
      throw error
    }
    return length
  }

  private func placement(of mapping: Mapping) async throws(BlockError) -> Placement {
    let cluster = file.clusterByteCount
    var guest = mapping.guest
    // What moves with its cluster is dealt with cluster by cluster.
    if moves(mapping) {
      guest.length = min(guest.length, clusters(ByteRange(offset: guest.offset, length: 1)).end - guest.offset)
    }
    let covered = clusters(guest)
    let wanted = covered.length / cluster
    var isNew = false
    let run: ClusterRun
    if map.format.hasDataFile {
      run = ClusterRun(first: covered.offset / cluster, count: wanted)
    } else if let kept = keptRun(mapping, wanted) {
      run = kept
    } else {
      run = try await refcounts.allocate(upTo: wanted)
      isNew = true
    }
    guest.length = min(guest.end, covered.offset + run.count * cluster) - guest.offset
    var units = guest.aligned(to: 1 << map.unitBits)
    if case .compressed = mapping.target { units = clusters(guest) }
    return Placement(run: run, first: covered.offset / cluster, guest: guest, units: units, isNew: isNew)
  }

  /// The clusters that are there already, if the mapping has such that aren't shared.
  private func keptRun(_ mapping: Mapping, _ count: UInt64) -> ClusterRun? {
    switch mapping.target {
    case .zero(let host?, isExclusive: true), .unallocated(let host?, isExclusive: true):
      ClusterRun(first: host / file.clusterByteCount, count: count)
    default: nil
    }
  }

  /// True if other subclusters of the mapping's cluster have to go with it to a new place.
  private func moves(_ mapping: Mapping) -> Bool {
    guard map.format.hasSubclusters else { return false }
    return switch mapping.target {
    case .data, .compressed, .zero(_?, isExclusive: false), .unallocated(_?, isExclusive: false): true
    case .zero, .unallocated: false
    }
  }

  /// Copies the data of a shared cluster, but for `units`, to its new place.
  private func moveOthers(besides units: ByteRange, of cluster: UInt64, to host: UInt64) async throws(BlockError) {
    let whole = ByteRange(offset: cluster * file.clusterByteCount, length: file.clusterByteCount)
    for part in [whole.offset..<units.offset, units.end..<whole.end] {
      var offset = part.lowerBound
      while offset < part.upperBound {
        let mapping = try await map.mapping(at: offset, upTo: part.upperBound - offset, .write)
        if case .data(let source, _) = mapping.target {
          let length = Int(mapping.guest.length)
          var buffer = file.pool.take(length)
          var all = buffer.mutableBytes
          var bytes = all.part(0..<length)
          try await data.read(into: &bytes, at: source)
          let target = host * file.clusterByteCount + offset - whole.offset
          try await data.write(buffer.bytes.extracting(0..<length), at: target)
        }
        offset = mapping.guest.end
      }
    }
  }

  /// The subclusters of a guest cluster that lie in `range`, of whole subclusters, as a mask.
  func subclusters(of cluster: UInt64, in range: ByteRange) -> UInt32 {
    let start = cluster << map.clusterBits
    let first = (max(range.offset, start) - start) >> map.unitBits
    let end = (min(max(range.end, start), start + file.clusterByteCount) - start) >> map.unitBits
    guard first < end else { return 0 }
    return UInt32(truncatingIfNeeded: (UInt64(1) << end) - (UInt64(1) << first))
  }

  /// Gives clusters back that nothing refers to.
  func release(_ run: ClusterRun) async throws(BlockError) {
    var runs = [run]
    try await refcounts.release(&runs, givingBack: false)
  }

  /// Fills the units: with `bytes`, and around them with what they hold so far.
  private func fill(_ place: Placement, with bytes: RawSpan, _ mapping: Mapping) async throws(BlockError) {
    let host = place.run.first * file.clusterByteCount + place.units.offset - place.first * file.clusterByteCount
    let head = Int(place.guest.offset - place.units.offset)
    let tail = Int(place.units.end - place.guest.end)
    if head + tail == 0 || (data.isPristine(host) && readsAsZeroes(around: mapping)) {
      return try await data.write(bytes, at: host + UInt64(head))
    }
    let unit = unitByteCount(mapping)
    if place.units.length == UInt64(unit) {
      return try await fillUnit(unit, at: host, with: bytes, head: head, tail: tail, place.guest, mapping)
    }
    var start = 0
    var end = bytes.byteCount
    if head > 0 {
      start = unit - head
      try await fillUnit(
        unit, at: host, with: bytes.extracting(0..<start), head: head, tail: 0, place.guest, mapping)
    }
    if tail > 0 {
      end -= unit - tail
      try await fillUnit(
        unit, at: host + place.units.length - UInt64(unit), with: bytes.extracting(end..<bytes.byteCount), head: 0,
        tail: tail, place.guest, mapping)
    }
    try await data.write(bytes.extracting(start..<end), at: host + UInt64(head + start))
  }

  private func unitByteCount(_ mapping: Mapping) -> Int {
    if case .compressed = mapping.target { return clusterByteCount }
    return 1 << Int(map.unitBits)
  }

  /// True if the guest clusters that a mapping touches hold nothing but zeroes besides its bytes.
  private func readsAsZeroes(around mapping: Mapping) -> Bool {
    switch mapping.target {
    case .zero: true
    case .unallocated: (backing?.byteCount ?? 0) <= clusters(mapping.guest).offset
    case .data, .compressed: false
    }
  }

  /// Writes one unit: `head` old bytes, the new ones, `tail` old ones; `guest` is all that is being written.
  private func fillUnit(
    _ unit: Int, at host: UInt64, with bytes: RawSpan, head: Int, tail: Int, _ guest: ByteRange, _ mapping: Mapping
  ) async throws(BlockError) {
    var buffer = file.pool.take(unit)
    var all = buffer.mutableBytes
    if head > 0 {
      var part = all.part(0..<head)
      try await readOld(mapping, from: guest.offset - UInt64(head), into: &part)
    }
    if tail > 0 {
      var part = all.part(unit - tail..<unit)
      try await readOld(mapping, from: guest.end, into: &part)
    }
    all.copy(from: bytes, at: head)
    // A data file ends where the guest's bytes do.
    let end = map.format.hasDataFile ? Int(min(UInt64(unit), byteCount - host)) : unit
    try await data.write(buffer.bytes.extracting(0..<end), at: host)
  }

  /// Reads what a unit at the edge of `mapping` holds from `offset` on; zeroes past the image's end.
  private func readOld(
    _ mapping: Mapping, from offset: UInt64, into part: inout MutableRawSpan
  ) async throws(BlockError) {
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
