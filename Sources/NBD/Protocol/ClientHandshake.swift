import Bytes

/// The client's side of the newstyle handshake, as a value: bytes in, actions out (proto.md, “Newstyle negotiation”).
///
/// In this order, each only if it is wished and what it needs was granted: STARTTLS, EXTENDED_HEADERS,
/// STRUCTURED_REPLY (if the former was refused), SET_META_CONTEXT, GO (or EXPORT_NAME for old servers).
/// The driver reads exactly ``wantedByteCount`` bytes at a time.
package struct ClientHandshake: Sendable {
  package struct Wishes: Hashable, Sendable {
    package var exportName: String
    /// Without TLS there is no connection.
    package var tls = false
    package var extendedHeaders = true
    package var structuredReplies = true
    /// Metadata contexts by whole name; those that the server doesn't have are left out.
    package var contexts: [String] = ["base:allocation"]

    package init(exportName: String) { self.exportName = exportName }
  }

  package enum Action: Hashable, Sendable {
    case send([UInt8])
    /// The TLS handshake is next; report with ``secured()``.
    case startTLS
    /// The end: transmission is next.
    case enter(Agreement)
  }

  private enum State: Hashable, Sendable {
    case greeting
    case replyHeader(OptionCode)
    case replyPayload(OptionCode, OptionReplyCode, byteCount: Int)
    case exportName(byteCount: Int)
    case startingTLS
    case ended
  }

  /// Replies to one option.
  private static let maximumReplyCount = 1024

  private let wishes: Wishes
  private var state = State.greeting
  private var serverFlags: HandshakeFlags = []
  private var isSecure = false
  private var style = HeaderStyle.simple
  private var contexts: [SelectedContext] = []
  private var replyCount = 0
  /// The server had no such export when it was asked for contexts; it may tell the reason when asked for the export.
  private var isExportUnknown = false
  // What INFO told so far.
  private var export: (byteCount: UInt64, flags: TransmissionFlags)?
  private var blockSizes: BlockSizes?

  package init(_ wishes: Wishes) { self.wishes = wishes }

  package var wantedByteCount: Int {
    switch state {
    case .greeting: WireLimits.greetingByteCount
    case .replyHeader: WireLimits.optionReplyHeaderByteCount
    case .replyPayload(_, _, let byteCount), .exportName(let byteCount): byteCount
    case .startingTLS, .ended: 0
    }
  }

  /// Takes exactly ``wantedByteCount`` bytes.
  package mutating func take(_ bytes: [UInt8]) throws(NBDProtocolError) -> [Action] {
    precondition(bytes.count == wantedByteCount && !bytes.isEmpty, "not the bytes that were asked for")
    switch state {
    case .greeting: return try takeGreeting(bytes)
    case .replyHeader(let option): return try takeReplyHeader(option, bytes)
    case .replyPayload(let option, let reply, _):
      state = .replyHeader(option)
      return try takeReply(option, reply, bytes)
    case .exportName: return try takeExportName(bytes)
    case .startingTLS, .ended: return []
    }
  }

  /// TLS is up.
  package mutating func secured() -> [Action] {
    precondition(state == .startingTLS, "TLS was not asked for")
    isSecure = true
    return next(after: .startTLS)
  }

  private mutating func takeGreeting(_ bytes: [UInt8]) throws(NBDProtocolError) -> [Action] {
    var reader = WireReader(bytes)
    guard try reader.integer(UInt64.self, "greeting") == Magic.password else { throw .badMagic("greeting") }
    guard try reader.integer(UInt64.self, "greeting") == Magic.option else {
      throw .unsupported("the newstyle handshake")
    }
    serverFlags = HandshakeFlags(rawValue: try reader.integer("handshake flags"))
    var answer: ClientFlags = []
    if serverFlags.contains(.fixedNewstyle) { answer.insert(.fixedNewstyle) }
    if serverFlags.contains(.noZeroes) { answer.insert(.noZeroes) }
    var message: [UInt8] = []
    message.append(bigEndian: answer.rawValue)
    guard serverFlags.contains(.fixedNewstyle) else {
      if wishes.tls { throw .unsupported("TLS") }
      return [.send(message), askExportName()]
    }
    return [.send(message)] + next(after: nil)
  }

  // MARK: What is asked

  /// The next option that is wished and possible.
  private mutating func next(after option: OptionCode?) -> [Action] {
    switch option {
    case nil: wishes.tls ? [ask(.startTLS)] : next(after: .startTLS)
    case .startTLS?: wishes.extendedHeaders ? [ask(.extendedHeaders)] : next(after: .extendedHeaders)
    case .extendedHeaders?:
      style == .simple && wishes.structuredReplies ? [ask(.structuredReply)] : next(after: .structuredReply)
    case .structuredReply?:
      style == .simple || wishes.contexts.isEmpty
        ? next(after: .setMetaContext) : [ask(.setMetaContext, metaContextPayload)]
    default: [ask(.go, goPayload)]
    }
  }

  private mutating func ask(_ option: OptionCode, _ payload: [UInt8] = []) -> Action {
    state = .replyHeader(option)
    replyCount = 0
    return .send(Self.optionBytes(option, payload))
  }

  private mutating func askExportName() -> Action {
    let padding = serverFlags.contains(.noZeroes) ? 0 : WireLimits.exportNamePadding
    state = .exportName(byteCount: 10 + padding)
    return .send(Self.optionBytes(.exportName, Array(wishes.exportName.utf8)))
  }

  private static func optionBytes(_ option: OptionCode, _ payload: [UInt8]) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(bigEndian: Magic.option)
    bytes.append(bigEndian: option.rawValue)
    bytes.append(bigEndian: UInt32(payload.count))
    return bytes + payload
  }

  private var namePayload: [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(bigEndian: UInt32(wishes.exportName.utf8.count))
    bytes.append(text: wishes.exportName)
    return bytes
  }

  private var goPayload: [UInt8] {
    var bytes = namePayload
    bytes.append(bigEndian: UInt16(1))
    bytes.append(bigEndian: InfoType.blockSize.rawValue)
    return bytes
  }

  private var metaContextPayload: [UInt8] {
    var bytes = namePayload
    bytes.append(bigEndian: UInt32(wishes.contexts.count))
    for context in wishes.contexts {
      bytes.append(bigEndian: UInt32(context.utf8.count))
      bytes.append(text: context)
    }
    return bytes
  }

  // MARK: What is answered

  private mutating func takeReplyHeader(_ option: OptionCode, _ bytes: [UInt8]) throws(NBDProtocolError) -> [Action] {
    var reader = WireReader(bytes)
    guard try reader.integer(UInt64.self, "option reply") == Magic.optionReply else { throw .badMagic("option reply") }
    let answered = OptionCode(rawValue: try reader.integer("option"))
    guard answered == option else { throw .violation("a reply to \(answered) where \(option) was asked") }
    let reply = OptionReplyCode(rawValue: try reader.integer("option reply"))
    let byteCount = Int(try reader.integer(UInt32.self, "option reply length"))
    guard byteCount <= WireLimits.optionByteCount else {
      throw .tooLong("\(reply)", byteCount: UInt64(byteCount), limit: UInt64(WireLimits.optionByteCount))
    }
    replyCount += 1
    guard replyCount <= Self.maximumReplyCount else { throw .violation("too many replies to \(option)") }
    if byteCount == 0 { return try takeReply(option, reply, []) }
    state = .replyPayload(option, reply, byteCount: byteCount)
    return []
  }

  private mutating func takeReply(
    _ option: OptionCode, _ reply: OptionReplyCode, _ payload: [UInt8]
  ) throws(NBDProtocolError) -> [Action] {
    if reply.isError { return try takeRefusal(option, reply, payload) }
    switch (option, reply) {
    case (.startTLS, .ack):
      state = .startingTLS
      return [.startTLS]
    case (.extendedHeaders, .ack):
      style = .extended
      return next(after: option)
    case (.structuredReply, .ack):
      style = .structured
      return next(after: option)
    case (.setMetaContext, .ack): return next(after: option)
    case (.setMetaContext, .metaContext): try takeContext(payload)
    case (.go, .info): try takeInfo(payload)
    case (.go, .ack): return try enter()
    default: throw .violation("\(reply) in reply to \(option)")
    }
    return []
  }

  private mutating func takeRefusal(
    _ option: OptionCode, _ reply: OptionReplyCode, _ payload: [UInt8]
  ) throws(NBDProtocolError) -> [Action] {
    var reader = WireReader(payload)
    let message = (try? reader.string(byteCount: payload.count, "message")) ?? ""
    let refusal = NBDProtocolError.refused(option: option.rawValue, reply: reply.rawValue, message: message)
    // A server that insists on TLS says so to whatever comes first.
    if reply == .tlsRequired || reply == .shutdown { throw refusal }
    switch option {
    case .extendedHeaders, .structuredReply: return next(after: option)
    case .setMetaContext:
      contexts = []
      isExportUnknown = reply == .unknown
      return next(after: option)
    case .go where reply == .unsupported && style != .extended: return [askExportName()]
    default: throw refusal
    }
  }

  private mutating func takeContext(_ payload: [UInt8]) throws(NBDProtocolError) {
    var reader = WireReader(payload)
    let id = try reader.integer(UInt32.self, "the context id")
    let name = try reader.string(byteCount: reader.remainingByteCount, "the context's name")
    guard wishes.contexts.contains(name), !contexts.contains(where: { $0.name == name || $0.id == id }) else {
      throw .violation("the context “\(name)” was not asked for, or came twice")
    }
    contexts.append(SelectedContext(id: id, name: name))
  }

  private mutating func takeInfo(_ payload: [UInt8]) throws(NBDProtocolError) {
    var reader = WireReader(payload)
    switch InfoType(rawValue: try reader.integer("the information type")) {
    case .export:
      export = (try reader.integer("the size"), TransmissionFlags(rawValue: try reader.integer("the flags")))
      try reader.finish("INFO_EXPORT")
    case .blockSize:
      let sizes = BlockSizes(
        minimum: try reader.integer("the minimum block size"),
        preferred: try reader.integer("the preferred block size"),
        maximum: try reader.integer("the maximum payload"))
      try reader.finish("INFO_BLOCK_SIZE")
      guard sizes.isValid else { throw .violation("impossible block sizes") }
      blockSizes = sizes
    case .name, .description, nil: break
    }
  }

  private mutating func takeExportName(_ bytes: [UInt8]) throws(NBDProtocolError) -> [Action] {
    var reader = WireReader(bytes)
    export = (try reader.integer("the size"), TransmissionFlags(rawValue: try reader.integer("the flags")))
    return try enter()
  }

  private mutating func enter() throws(NBDProtocolError) -> [Action] {
    // A server that is coming up: the contexts that it has for the export are not known, and it's too late to ask.
    if isExportUnknown { throw .unsupported("the export for all of the handshake: it came up in the middle") }
    guard let export, export.flags.contains(.hasFlags) else { throw .violation("the export was not described") }
    guard export.byteCount <= UInt64(Int64.max) else { throw .violation("an export of \(export.byteCount) bytes") }
    state = .ended
    return [
      .enter(
        Agreement(
          exportName: wishes.exportName, byteCount: export.byteCount, flags: export.flags,
          blockSizes: blockSizes ?? .standard, style: style, contexts: contexts, isSecure: isSecure))
    ]
  }
}
