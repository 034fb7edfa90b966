import Bytes

/// The header of one reply or chunk, as a client reads it.
package struct ReplyHeader: Hashable, Sendable {
  package enum Body: Hashable, Sendable {
    /// A simple reply: 0, or an error of the server's.
    case simple(error: UInt32)
    /// A chunk with a payload of that length; perhaps no ``ChunkType`` that is known.
    case chunk(type: UInt16, isLast: Bool, byteCount: Int)
  }

  package var cookie: UInt64
  package var body: Body

  /// Bytes that tell how long the header is.
  package static let prefixByteCount = 16

  /// How long the header is that begins with these 16 bytes.
  package static func byteCount(_ prefix: RawSpan, style: HeaderStyle) throws(NBDProtocolError) -> Int {
    switch (prefix.bigEndian(UInt32.self, at: 0), style) {
    case (Magic.simpleReply, .simple), (Magic.simpleReply, .structured): return 16
    case (Magic.structuredReply, .structured): return 20
    case (Magic.extendedReply, .extended): return 32
    default: throw .badMagic("reply of the negotiated style")
    }
  }

  /// Reads the whole header from the start of `bytes`.
  package init(_ bytes: RawSpan, style: HeaderStyle) throws(NBDProtocolError) {
    _ = try Self.byteCount(bytes, style: style)
    cookie = bytes.bigEndian(UInt64.self, at: 8)
    if bytes.bigEndian(UInt32.self, at: 0) == Magic.simpleReply {
      body = .simple(error: bytes.bigEndian(UInt32.self, at: 4))
      return
    }
    let flags = bytes.bigEndian(UInt16.self, at: 4)
    let type = bytes.bigEndian(UInt16.self, at: 6)
    let length =
      style == .extended ? bytes.bigEndian(UInt64.self, at: 24) : UInt64(bytes.bigEndian(UInt32.self, at: 16))
    // A data chunk has its offset before the payload that the limit is about.
    let limit = UInt64(max(WireLimits.payloadByteCount, WireLimits.statusByteCount)) + 8
    guard length <= limit else { throw .tooLong("a reply chunk", byteCount: length, limit: limit) }
    let isLast = flags & ReplyFormat.done != 0
    if type == ChunkType.none.rawValue, length != 0 || !isLast {
      throw .violation("a NONE chunk with a payload, or not as the last")
    }
    body = .chunk(type: type, isLast: isLast, byteCount: Int(length))
  }
}

/// The payload of an error chunk.
package struct ErrorChunk: Hashable, Sendable {
  package var error: WireError
  package var message: String

  /// - Parameter type: the chunk's; an unknown one with bit 15 set counts as an error as well.
  package init(_ payload: [UInt8], type: UInt16) throws(NBDProtocolError) {
    var reader = WireReader(payload)
    let value = try reader.integer(UInt32.self, "the error")
    guard value != 0 else { throw .violation("an error chunk without an error") }
    error = WireError(onTheWire: value)
    let count = try reader.integer(UInt16.self, "the error's message length")
    // What people read may be cut; what is no text is left out.
    guard Int(count) <= reader.remainingByteCount else { throw .truncated("the error's message") }
    message = (try? reader.string(byteCount: count, "the error's message")) ?? ""
  }
}

/// The payload of a status chunk.
package struct StatusChunk: Hashable, Sendable {
  package var contextID: UInt32
  package var extents: [ContextExtent]

  package init(_ payload: [UInt8], style: HeaderStyle) throws(NBDProtocolError) {
    var reader = WireReader(payload)
    contextID = try reader.integer("the context id")
    let extentByteCount = style == .extended ? 16 : 8
    if style == .extended {
      let count = try reader.integer(UInt32.self, "the number of extents")
      guard Int(count) * extentByteCount == reader.remainingByteCount else {
        throw .violation("a status chunk whose count doesn't fit its length")
      }
    }
    let count = reader.remainingByteCount / extentByteCount
    guard count > 0, count * extentByteCount == reader.remainingByteCount else {
      throw .violation("a status chunk of \(payload.count) bytes")
    }
    extents = []
    extents.reserveCapacity(count)
    var total: UInt64 = 0
    for _ in 0..<count {
      let extent =
        style == .extended
        ? ContextExtent(length: try reader.integer("an extent"), flags: try reader.integer("an extent"))
        : ContextExtent(
          length: UInt64(try reader.integer(UInt32.self, "an extent")),
          flags: UInt64(try reader.integer(UInt32.self, "an extent")))
      let (sum, overflow) = total.addingReportingOverflow(extent.length)
      guard extent.length > 0, !overflow else { throw .violation("an extent of impossible length") }
      total = sum
      extents.append(extent)
    }
  }
}
