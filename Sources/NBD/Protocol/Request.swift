import Bytes

/// One request as it stands on the wire (proto.md, “Request message”).
package struct Request: Hashable, Sendable {
  package var flags: CommandFlags
  /// Perhaps no ``Command`` that is known.
  package var type: UInt16
  package var cookie: UInt64
  package var offset: UInt64
  /// Bytes of the export that it is about, or bytes of payload that follow, see ``payloadByteCount(_:)``.
  package var length: UInt64

  package init(_ command: Command, flags: CommandFlags = [], cookie: UInt64, offset: UInt64 = 0, length: UInt64 = 0) {
    self.init(flags: flags, type: command.rawValue, cookie: cookie, offset: offset, length: length)
  }

  package init(flags: CommandFlags, type: UInt16, cookie: UInt64, offset: UInt64, length: UInt64) {
    self.flags = flags
    self.type = type
    self.cookie = cookie
    self.offset = offset
    self.length = length
  }

  package var command: Command? { Command(rawValue: type) }

  /// Reads a header of the style at `offset` of `bytes`, which hold it as a whole.
  @inline(__always)
  package init(_ bytes: RawSpan, at start: Int, style: HeaderStyle) throws(NBDProtocolError) {
    let isExtended = style == .extended
    guard bytes.bigEndian(UInt32.self, at: start) == (isExtended ? Magic.extendedRequest : Magic.request) else {
      throw .badMagic("request")
    }
    flags = CommandFlags(rawValue: bytes.bigEndian(UInt16.self, at: start + 4))
    type = bytes.bigEndian(UInt16.self, at: start + 6)
    cookie = bytes.bigEndian(UInt64.self, at: start + 8)
    offset = bytes.bigEndian(UInt64.self, at: start + 16)
    length =
      isExtended
      ? bytes.bigEndian(UInt64.self, at: start + 24) : UInt64(bytes.bigEndian(UInt32.self, at: start + 24))
  }

  /// The header's bytes. In the compact styles `length` must fit in 32 bits.
  package func bytes(_ style: HeaderStyle) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(style.requestHeaderByteCount)
    bytes.append(bigEndian: style == .extended ? Magic.extendedRequest : Magic.request)
    bytes.append(bigEndian: flags.rawValue)
    bytes.append(bigEndian: type)
    bytes.append(bigEndian: cookie)
    bytes.append(bigEndian: offset)
    if style == .extended { bytes.append(bigEndian: length) } else { bytes.append(bigEndian: UInt32(length)) }
    return bytes
  }

  /// Bytes that follow the header.
  ///
  /// A WRITE always has its payload. With extended headers proto.md has the client set PAYLOAD_LEN as well, but QEMU
  /// (8.2 and later) leaves the flag out; its own server, too, takes the command's word for it.
  @inline(__always)
  package func payloadByteCount(_ style: HeaderStyle) -> UInt64 {
    let hasPayload = type == Command.write.rawValue || (style == .extended && flags.contains(.payloadLength))
    return hasPayload ? length : 0
  }
}

/// What a client passes along with BLOCK_STATUS to hear of some contexts only (EXTENDED_HEADERS extension).
package struct BlockStatusPayload: Hashable, Sendable {
  package var effectLength: UInt64
  package var contextIDs: [UInt32]

  package init(effectLength: UInt64, contextIDs: [UInt32]) {
    self.effectLength = effectLength
    self.contextIDs = contextIDs
  }

  package init(_ bytes: [UInt8]) throws(NBDProtocolError) {
    guard bytes.count >= 12, bytes.count % 4 == 0, bytes.count <= Self.maximumByteCount else {
      throw .violation("a BLOCK_STATUS payload of \(bytes.count) bytes")
    }
    var reader = WireReader(bytes)
    effectLength = try reader.integer("the effect length")
    contextIDs = []
    for _ in 0..<(bytes.count - 8) / 4 { contextIDs.append(try reader.integer("a context id")) }
    guard Set(contextIDs).count == contextIDs.count else { throw .violation("a context id stands twice") }
  }

  package static let maximumByteCount = 8 + 4 * WireLimits.contextCount

  package var bytes: [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(bigEndian: effectLength)
    for id in contextIDs { bytes.append(bigEndian: id) }
    return bytes
  }
}
