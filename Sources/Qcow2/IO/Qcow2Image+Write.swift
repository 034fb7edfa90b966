import BlockCore
import Buffers

/// Writes: in place where an entry says that nothing else uses the cluster, else to new clusters
/// (Qcow2Image+NewClusters.swift). No table is written before a flush or until many have changed.
extension Qcow2Image {
  package func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError) {
    try checkChangeable(.write)
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
    try checkChangeable(.write)
    let isForced = options.contains(.forceUnitAccess)
    // The file can force bytes in place only; a mapping becomes durable by a flush.
    let passesForce = isForced && mode == .shared && map.isDurable
    try await write(bytes, at: offset, inPlace: passesForce ? .forceUnitAccess : [])
    try await map.commitIfNeeded()
    if isForced, !passesForce { try await map.flush() }
  }

  /// Writes through the mappings, of which only those may change that the caller holds exclusively.
  func write(_ bytes: RawSpan, at offset: UInt64, inPlace options: WriteOptions = []) async throws(BlockError) {
    var done = 0
    while done < bytes.byteCount {
      let mapping = try await map.mapping(
        at: offset + UInt64(done), upTo: UInt64(bytes.byteCount - done), .write)
      if case .data(let host, isExclusive: true) = mapping.target {
        let end = done + Int(mapping.guest.length)
        try await data.write(bytes.extracting(done..<end), at: host, options: options)
        done = end
      } else {
        done += try await writeToNewClusters(bytes.extracting(done..<done + Int(mapping.guest.length)), mapping)
      }
    }
  }
}
