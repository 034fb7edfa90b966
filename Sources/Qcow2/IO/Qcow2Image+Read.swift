import BlockCore
import Buffers

/// Reads: a mapping for each stretch that is stored in one way, and the bytes from where it says.
extension Qcow2Image {
  package func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    try checkUsable(.read)
    try checkRequest(.read, at: offset, length: UInt64(buffer.byteCount))
    var done = 0
    while done < buffer.byteCount {
      let position = offset + UInt64(done)
      guard let mapping = try map.tryMapping(at: position, upTo: UInt64(buffer.byteCount - done), .read) else {
        return false
      }
      let end = done + Int(mapping.guest.length)
      var part = buffer.part(done..<end)
      guard try tryRead(mapping, into: &part) else { return false }
      done = end
    }
    return true
  }

  private func tryRead(_ mapping: Mapping, into part: inout MutableRawSpan) throws(BlockError) -> Bool {
    switch mapping.target {
    case .data(let host, _): return try data.tryRead(into: &part, at: host)
    case .zero: part.zero()
    case .compressed:
      let (cluster, start) = mapping.guest.offset.quotientAndRemainder(dividingBy: file.clusterByteCount)
      return expanded.tryRead(cluster, from: Int(start), into: &part)
    case .unallocated:
      guard let backing else {
        part.zero()
        return true
      }
      return try backing.tryReadPastEnd(into: &part, at: mapping.guest.offset)
    }
    return true
  }

  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError) {
    try checkUsable(.read)
    try checkRequest(.read, at: offset, length: UInt64(buffer.byteCount))
    if buffer.byteCount == 0 { return }
    let range = ByteRange(offset: offset, length: UInt64(buffer.byteCount))
    let hold = await ranges.acquire(clusters(range), .shared)
    defer { ranges.release(hold) }
    try checkUsable(.read)
    var done = 0
    while done < buffer.byteCount {
      let mapping = try await map.mapping(
        at: offset + UInt64(done), upTo: UInt64(buffer.byteCount - done), .read)
      let end = done + Int(mapping.guest.length)
      var part = buffer.part(done..<end)
      try await read(mapping, into: &part)
      done = end
    }
  }

  /// Fills `part` with the guest bytes that a mapping is about.
  func read(_ mapping: Mapping, into part: inout MutableRawSpan) async throws(BlockError) {
    switch mapping.target {
    case .data(let host, _): try await data.read(into: &part, at: host)
    case .zero: part.zero()
    case .compressed(let place):
      let (cluster, start) = mapping.guest.offset.quotientAndRemainder(dividingBy: file.clusterByteCount)
      try await expanded.read(cluster, at: place, from: Int(start), into: &part)
    case .unallocated:
      guard let backing else { return part.zero() }
      try await backing.readPastEnd(into: &part, at: mapping.guest.offset)
    }
  }
}
