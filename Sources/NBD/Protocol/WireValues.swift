/// Magic numbers (proto.md, “Protocol phases” and “Transmission”).
package enum Magic {
  package static let password: UInt64 = 0x4e42_444d_4147_4943
  package static let option: UInt64 = 0x4948_4156_454f_5054
  package static let optionReply: UInt64 = 0x0003_e889_0455_65a9
  package static let request: UInt32 = 0x2560_9513
  package static let extendedRequest: UInt32 = 0x21e4_1c71
  package static let simpleReply: UInt32 = 0x6744_6698
  package static let structuredReply: UInt32 = 0x668e_33ef
  package static let extendedReply: UInt32 = 0x6e8a_278c
}

/// Bounds on what the other side may send, and on what we send.
package enum WireLimits {
  /// The longest string (proto.md, “Conventions”).
  package static let stringByteCount = 4096
  /// The longest option payload that is looked at; a longer one is answered TOO_BIG.
  package static let optionByteCount = 64 << 10
  /// The longest option payload that is read past; a longer one ends the connection.
  package static let discardedOptionByteCount = 1 << 20
  /// Options in one handshake.
  package static let optionCount = 4096
  /// Metadata contexts selected at once.
  package static let contextCount = 64
  /// The largest payload of a request or of a data chunk (proto.md, “Size constraints”).
  package static let payloadByteCount = 32 << 20
  /// Extents in one status chunk of ours.
  package static let extentCount = 8192
  /// The largest status chunk taken from a server: 2^20 extents of 16 bytes.
  package static let statusByteCount = (16 << 20) + 8
  /// The zeroes after the answer to EXPORT_NAME.
  static let exportNamePadding = 124
  static let optionHeaderByteCount = 16
  static let optionReplyHeaderByteCount = 20
  static let greetingByteCount = 18
}

/// What a client asks during the handshake (proto.md, “Option types”).
package struct OptionCode: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
  package let rawValue: UInt32
  package init(rawValue: UInt32) { self.rawValue = rawValue }

  package static let exportName = OptionCode(rawValue: 1)
  package static let abort = OptionCode(rawValue: 2)
  package static let list = OptionCode(rawValue: 3)
  package static let startTLS = OptionCode(rawValue: 5)
  package static let info = OptionCode(rawValue: 6)
  package static let go = OptionCode(rawValue: 7)
  package static let structuredReply = OptionCode(rawValue: 8)
  package static let listMetaContext = OptionCode(rawValue: 9)
  package static let setMetaContext = OptionCode(rawValue: 10)
  package static let extendedHeaders = OptionCode(rawValue: 11)

  private static let names: [OptionCode: String] = [
    .exportName: "EXPORT_NAME", .abort: "ABORT", .list: "LIST", .startTLS: "STARTTLS", .info: "INFO", .go: "GO",
    .structuredReply: "STRUCTURED_REPLY", .listMetaContext: "LIST_META_CONTEXT", .setMetaContext: "SET_META_CONTEXT",
    .extendedHeaders: "EXTENDED_HEADERS",
  ]

  package var description: String { Self.names[self] ?? "option \(rawValue)" }
}

/// What a server answers to an option (proto.md, “Option reply types”).
package struct OptionReplyCode: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
  package let rawValue: UInt32
  package init(rawValue: UInt32) { self.rawValue = rawValue }
  private init(error: UInt32) { rawValue = 1 << 31 | error }

  package static let ack = OptionReplyCode(rawValue: 1)
  package static let server = OptionReplyCode(rawValue: 2)
  package static let info = OptionReplyCode(rawValue: 3)
  package static let metaContext = OptionReplyCode(rawValue: 4)
  package static let unsupported = OptionReplyCode(error: 1)
  package static let policy = OptionReplyCode(error: 2)
  package static let invalid = OptionReplyCode(error: 3)
  package static let tlsRequired = OptionReplyCode(error: 5)
  package static let unknown = OptionReplyCode(error: 6)
  package static let shutdown = OptionReplyCode(error: 7)
  package static let blockSizeRequired = OptionReplyCode(error: 8)
  package static let tooBig = OptionReplyCode(error: 9)
  package static let extendedHeadersRequired = OptionReplyCode(error: 10)

  package var isError: Bool { rawValue >> 31 == 1 }

  private static let names: [OptionReplyCode: String] = [
    .ack: "ACK", .server: "SERVER", .info: "INFO", .metaContext: "META_CONTEXT", .unsupported: "ERR_UNSUP",
    .policy: "ERR_POLICY", .invalid: "ERR_INVALID", .tlsRequired: "ERR_TLS_REQD", .unknown: "ERR_UNKNOWN",
    .shutdown: "ERR_SHUTDOWN", .blockSizeRequired: "ERR_BLOCK_SIZE_REQD", .tooBig: "ERR_TOO_BIG",
    .extendedHeadersRequired: "ERR_EXT_HEADER_REQD",
  ]

  package var description: String { Self.names[self] ?? "reply \(rawValue)" }
}

/// What INFO and GO tell (proto.md, NBD_REP_INFO).
package enum InfoType: UInt16, Sendable {
  case export = 0
  case name = 1
  case description = 2
  case blockSize = 3
}

/// Requests (proto.md, “Request types”).
package enum Command: UInt16, Hashable, Sendable, CaseIterable {
  case read = 0
  case write = 1
  case disconnect = 2
  case flush = 3
  case trim = 4
  case cache = 5
  case writeZeroes = 6
  case blockStatus = 7
}

/// Kinds of reply chunks (proto.md, “Structured reply types”).
package enum ChunkType: UInt16, Sendable {
  case none = 0
  case offsetData = 1
  case offsetHole = 2
  case blockStatus = 5
  case blockStatusExtended = 6
  case error = 0x8001
  case errorOffset = 0x8002
}

/// Which headers requests and replies have, as negotiated.
package enum HeaderStyle: Hashable, Sendable {
  /// Compact requests, simple replies.
  case simple
  /// Compact requests, structured replies to reads and block status.
  case structured
  /// Extended requests and replies (experimental extension EXTENDED_HEADERS).
  case extended

  package var requestHeaderByteCount: Int { self == .extended ? 32 : 28 }
}
