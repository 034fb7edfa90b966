/// What LIST tells of an export.
package struct ExportListing: Hashable, Sendable {
  package var name: String
  /// For people; may be empty.
  package var description: String

  package init(name: String, description: String = "") {
    self.name = name
    self.description = description
  }
}

/// The sizes that requests must keep to (proto.md, “Size constraints”).
package struct BlockSizes: Hashable, Sendable {
  /// Offsets and lengths are multiples of it; a power of two up to 64 KiB.
  package var minimum: UInt32
  /// A power of two, at least 512 and `minimum`.
  package var preferred: UInt32
  /// The most bytes that a READ asks for or a WRITE carries.
  package var maximum: UInt32

  /// What holds where nothing was told.
  package static let standard = BlockSizes(
    minimum: 1, preferred: 4096, maximum: UInt32(WireLimits.payloadByteCount))

  package init(minimum: UInt32, preferred: UInt32, maximum: UInt32) {
    self.minimum = minimum
    self.preferred = preferred
    self.maximum = maximum
  }

  var isValid: Bool {
    minimum > 0 && minimum.nonzeroBitCount == 1 && minimum <= 1 << 16
      && preferred.nonzeroBitCount == 1 && preferred >= max(512, minimum) && maximum >= preferred
  }
}

/// What a server offers of one export at the moment a client asks.
package struct ExportOffer: Hashable, Sendable {
  /// The name in the server's listing, whatever name the client asked by.
  package var name: String
  package var description: String
  package var byteCount: UInt64
  /// Without those that depend on the negotiation (DF, BLOCK_STATUS_PAYLOAD).
  package var flags: TransmissionFlags
  /// With `minimum` 1: a client that doesn't ask for sizes can't be expected to keep to more (proto.md).
  package var blockSizes: BlockSizes
  /// The metadata contexts that may be selected, by full name.
  package var contextNames: [String]
  /// Refused to clients without TLS, whatever the listener allows.
  package var requiresTLS: Bool

  package init(
    name: String, description: String = "", byteCount: UInt64, flags: TransmissionFlags,
    blockSizes: BlockSizes = .standard, contextNames: [String] = [], requiresTLS: Bool = false
  ) {
    self.name = name
    self.description = description
    self.byteCount = byteCount
    self.flags = flags
    self.blockSizes = blockSizes
    self.contextNames = contextNames
    self.requiresTLS = requiresTLS
  }
}

/// A metadata context that was selected, with the id that chunks carry.
package struct SelectedContext: Hashable, Sendable {
  package var id: UInt32
  package var name: String

  package init(id: UInt32, name: String) {
    self.id = id
    self.name = name
  }
}

/// What both sides agreed on when transmission begins.
package struct Agreement: Hashable, Sendable {
  /// The export's name in the listing (server), or as it was asked for (client).
  package var exportName: String
  package var byteCount: UInt64
  package var flags: TransmissionFlags
  package var blockSizes: BlockSizes
  package var style: HeaderStyle
  package var contexts: [SelectedContext]
  package var isSecure: Bool

  package init(
    exportName: String, byteCount: UInt64, flags: TransmissionFlags, blockSizes: BlockSizes = .standard,
    style: HeaderStyle = .simple, contexts: [SelectedContext] = [], isSecure: Bool = false
  ) {
    self.exportName = exportName
    self.byteCount = byteCount
    self.flags = flags
    self.blockSizes = blockSizes
    self.style = style
    self.contexts = contexts
    self.isSecure = isSecure
  }
}

/// Whether clients of a listener may, or must, use TLS (proto.md, “Server-side requirements”).
package enum TLSPolicy: Hashable, Sendable {
  /// NOTLS
  case none
  /// SELECTIVETLS: exports say whether they insist.
  case optional
  /// FORCEDTLS
  case required
}
