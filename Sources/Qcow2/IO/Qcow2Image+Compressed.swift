import BlockCore
import Buffers

/// One guest cluster that ``ClusterCompressor`` has compressed.
package struct CompressedCluster: Hashable, Sendable {
  /// Where the cluster stands in the guest: a multiple of the cluster size.
  package var guestOffset: UInt64
  package var byteCount: Int

  package init(guestOffset: UInt64, byteCount: Int) {
    self.guestOffset = guestOffset
    self.byteCount = byteCount
  }
}

extension Qcow2Image {
  /// Stores clusters that are compressed already, packed without gaps as far as the file's free space allows.
  ///
  /// - Parameters:
  ///   - clusters: each guest cluster at most once, in any order; best in ascending order.
  ///   - bytes: their compressed bytes one after the other, in the order of `clusters`, and nothing else.
  package func writeCompressed(_ clusters: [CompressedCluster], from bytes: RawSpan) async throws(BlockError) {
    try checkChangeable(.write)
    guard let range = try checkCompressed(clusters, byteCount: bytes.byteCount) else { return }
    try await prepareToChange(.write)
    let hold = await ranges.acquire(range, .exclusive)
    defer { ranges.release(hold) }
    try checkChangeable(.write)
    let offsets = try await refcounts.allocatePacked(clusters.map(\.byteCount))
    var mapped = 0
    do {
      try await writePacked(clusters, offsets, bytes)
      while mapped < clusters.count {
        let place = CompressedDescriptor(offset: offsets[mapped], byteCount: clusters[mapped].byteCount)
        try await mapCompressed(clusters[mapped].guestOffset / file.clusterByteCount, place)
        mapped += 1
      }
    } catch {
      for number in mapped..<clusters.count {
        let touched = refcounts.touched(offsets[number], clusters[number].byteCount)
        try? await release(ClusterRun(first: touched.lowerBound, count: UInt64(touched.count)))
      }
      throw error
    }
    try await map.commitIfNeeded()
  }

  /// The guest range from the first to the last cluster, or nil if there is none.
  private func checkCompressed(_ clusters: [CompressedCluster], byteCount total: Int) throws(BlockError) -> ByteRange? {
    if isReadOnly { throw BlockError(.readOnly, .write) }
    if map.format.hasDataFile {
      throw BlockError(.notSupported, .write, cause: "an external data file holds no compressed clusters")
    }
    var range: ByteRange?
    var sum = 0
    for cluster in clusters {
      guard cluster.guestOffset < byteCount else { throw BlockError(.outOfRange, .write) }
      let place = ByteRange(offset: cluster.guestOffset, length: file.clusterByteCount)
      guard cluster.guestOffset % file.clusterByteCount == 0, cluster.byteCount > 0,
        cluster.byteCount < clusterByteCount
      else { throw BlockError(.misaligned, .write, place, cause: "\(cluster.byteCount) compressed bytes") }
      sum += cluster.byteCount
      range = range.map { ByteRange(min($0.offset, place.offset)..<max($0.end, place.end)) } ?? place
    }
    guard sum == total else { throw BlockError(.outOfRange, .write, range, cause: "\(total) compressed bytes") }
    return range
  }

  /// Writes the bytes at their offsets, neighbours in one piece.
  private func writePacked(
    _ clusters: [CompressedCluster], _ offsets: [UInt64], _ bytes: RawSpan
  ) async throws(BlockError) {
    var start = 0
    var position = 0
    while start < clusters.count {
      var end = start
      var length = 0
      repeat {
        length += clusters[end].byteCount
        end += 1
      } while end < clusters.count && offsets[end] == offsets[start] + UInt64(length)
      try await file.writePacked(bytes.extracting(position..<position + length), at: offsets[start])
      position += length
      start = end
    }
  }

  private func mapCompressed(_ cluster: UInt64, _ place: CompressedDescriptor) async throws(BlockError) {
    guard let entry = place.encoded(clusterBits: refcounts.clusterBits) else {
      throw BlockError(.noSpace, .write, cause: "the file is too long for compressed clusters")
    }
    _ = try await map.update(from: cluster, count: 1, .write) { _, _ in L2Entry(raw: entry) }
    expanded.forget(cluster..<cluster + 1)
  }
}
