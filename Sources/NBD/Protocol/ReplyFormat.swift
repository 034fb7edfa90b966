import Bytes

/// How a server's replies are laid out in the negotiated style (proto.md, “Simple reply message”, “Structured reply
/// chunk message”; extension EXTENDED_HEADERS, “Extended reply chunk message”).
package struct ReplyFormat: Hashable, Sendable {
  package let style: HeaderStyle

  package init(_ style: HeaderStyle) { self.style = style }

  /// Marks a reply's last chunk.
  static let done: UInt16 = 1

  /// Bytes of the header of one chunk.
  package var chunkHeaderByteCount: Int {
    switch style {
    case .simple: 16
    case .structured: 20
    case .extended: 32
    }
  }

  /// Bytes before the data of a READ: the header, and in chunks the offset.
  package var dataHeaderByteCount: Int { style == .simple ? 16 : chunkHeaderByteCount + 8 }

  /// Bytes of a chunk that tells of a hole; chunks only.
  package var holeByteCount: Int { chunkHeaderByteCount + 12 }

  /// Writes what stands before `byteCount` bytes of data from `offset` on.
  /// - Parameters:
  ///   - target: exactly ``dataHeaderByteCount`` bytes.
  ///   - isLast: no chunk follows.
  @inline(__always)
  package func putDataHeader(
    _ target: inout MutableRawSpan, _ request: Request, offset: UInt64, byteCount: Int, isLast: Bool
  ) {
    if style == .simple { return putSimple(&target, request.cookie, 0) }
    putChunkHeader(&target, request, .offsetData, payload: UInt64(8 + byteCount), isLast: isLast)
    target.store(bigEndian: offset, at: chunkHeaderByteCount)
  }

  /// Writes a chunk that says that `byteCount` bytes from `offset` on are zero.
  package func putHole(
    _ target: inout MutableRawSpan, _ request: Request, offset: UInt64, byteCount: Int, isLast: Bool
  ) {
    putChunkHeader(&target, request, .offsetHole, payload: 12, isLast: isLast)
    target.store(bigEndian: offset, at: chunkHeaderByteCount)
    target.store(bigEndian: UInt32(byteCount), at: chunkHeaderByteCount + 8)
  }

  @inline(__always)
  private func putSimple(_ target: inout MutableRawSpan, _ cookie: UInt64, _ error: UInt32) {
    target.store(bigEndian: Magic.simpleReply, at: 0)
    target.store(bigEndian: error, at: 4)
    target.store(bigEndian: cookie, at: 8)
  }

  private func putChunkHeader(
    _ target: inout MutableRawSpan, _ request: Request, _ type: ChunkType, payload: UInt64, isLast: Bool
  ) {
    let isExtended = style == .extended
    target.store(bigEndian: isExtended ? Magic.extendedReply : Magic.structuredReply, at: 0)
    target.store(bigEndian: isLast ? Self.done : 0, at: 4)
    target.store(bigEndian: type.rawValue, at: 6)
    target.store(bigEndian: request.cookie, at: 8)
    if isExtended {
      target.store(bigEndian: request.offset, at: 16)
      target.store(bigEndian: payload, at: 24)
    } else {
      target.store(bigEndian: UInt32(payload), at: 16)
    }
  }

  // MARK: Whole replies without data

  /// The reply to a request that succeeded and has nothing to tell, or the end of one whose chunks were sent.
  package func success(_ request: Request) -> [UInt8] {
    // A read's end is always a chunk; elsewhere a simple reply is allowed beside structured ones, and shorter.
    if style == .extended || (style == .structured && request.type == Command.read.rawValue) {
      return chunk(request, .none, [], isLast: true)
    }
    return simple(request, error: 0)
  }

  /// - Parameter message: for people; cut to the longest string there may be.
  package func failure(_ request: Request, _ error: WireError, _ message: String) -> [UInt8] {
    if style == .simple { return simple(request, error: error.rawValue) }
    let text = Array(message.utf8.prefix(WireLimits.stringByteCount))
    var payload: [UInt8] = []
    payload.append(bigEndian: error.rawValue)
    payload.append(bigEndian: UInt16(text.count))
    return chunk(request, .error, payload + text, isLast: true)
  }

  /// A status chunk. In the compact style lengths and flags must fit in 32 bits.
  package func blockStatus(
    _ request: Request, contextID: UInt32, _ extents: [ContextExtent], isLast: Bool
  ) -> [UInt8] {
    var payload: [UInt8] = []
    payload.append(bigEndian: contextID)
    guard style == .extended else {
      for extent in extents {
        payload.append(bigEndian: UInt32(truncatingIfNeeded: extent.length))
        payload.append(bigEndian: UInt32(truncatingIfNeeded: extent.flags))
      }
      return chunk(request, .blockStatus, payload, isLast: isLast)
    }
    payload.append(bigEndian: UInt32(extents.count))
    for extent in extents {
      payload.append(bigEndian: extent.length)
      payload.append(bigEndian: extent.flags)
    }
    return chunk(request, .blockStatusExtended, payload, isLast: isLast)
  }

  private func simple(_ request: Request, error: UInt32) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(bigEndian: Magic.simpleReply)
    bytes.append(bigEndian: error)
    bytes.append(bigEndian: request.cookie)
    return bytes
  }

  private func chunk(_ request: Request, _ type: ChunkType, _ payload: [UInt8], isLast: Bool) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: chunkHeaderByteCount)
    var span = bytes.mutableSpan
    var target = span.mutableBytes
    putChunkHeader(&target, request, type, payload: UInt64(payload.count), isLast: isLast)
    return bytes + payload
  }
}

/// What a metadata context says of a run of bytes; its place follows from those before it.
package struct ContextExtent: Hashable, Sendable {
  /// In bytes; never 0.
  package var length: UInt64
  /// Their meaning is the context's.
  package var flags: UInt64

  package init(length: UInt64, flags: UInt64) {
    self.length = length
    self.flags = flags
  }
}

extension [ContextExtent] {
  /// Appends `extent`, joined with the last one if it says the same.
  package mutating func appendMerging(_ extent: ContextExtent) {
    if let last, last.flags == extent.flags {
      self[count - 1].length += extent.length
    } else {
      append(extent)
    }
  }

  /// The same for headers of the style: compact ones hold 32 bits, so an extent that is longer is cut there, on a
  /// boundary that suits every block size, and is the last.
  package func fitting(_ style: HeaderStyle) -> [ContextExtent] {
    guard style != .extended else { return self }
    let limit: UInt64 = 0xffff_0000
    guard let index = firstIndex(where: { $0.length > UInt64(UInt32.max) }) else { return self }
    return self[..<index] + [ContextExtent(length: limit, flags: self[index].flags)]
  }
}
