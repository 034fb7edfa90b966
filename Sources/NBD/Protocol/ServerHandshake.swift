import Bytes

/// The server's side of the fixed newstyle handshake, as a value: bytes in, actions out (proto.md, “Newstyle
/// negotiation”).
///
/// | State | waits for | then |
/// |---|---|---|
/// | clientFlags | 4 bytes | option header |
/// | optionHeader | 16 bytes | payload, or past it, or straight on |
/// | optionPayload | the option's payload | a reply, or a question |
/// | discarding | a payload too long to look at | TOO_BIG, option header |
/// | asking | the answer to a question | a reply, option header or the end |
/// | startingTLS | `secured` | option header, all else forgotten |
/// | ended | nothing | |
///
/// The driver reads exactly ``wantedByteCount`` bytes at a time: nothing that was sent before TLS is ever
/// taken for a part of what came after it.
package struct ServerHandshake: Sendable {
  package enum Action: Hashable, Sendable {
    case send([UInt8])
    /// Answer with ``answer(listings:)``.
    case askListings
    /// Answer with ``answer(offer:)``.
    case askOffer(name: String)
    /// The TLS handshake is next; report with ``secured()``.
    case startTLS
    /// The end: transmission is next.
    case enter(Agreement)
    /// The end: nothing follows.
    case close
  }

  enum Question: Hashable, Sendable {
    case listings
    case exportName
    case info(OptionCode, asks: Set<UInt16>)
    case metaContexts(OptionCode, queries: [String])
  }

  private enum State: Hashable, Sendable {
    case clientFlags
    case optionHeader
    case optionPayload(OptionCode, byteCount: Int)
    case discarding(OptionCode, byteCount: Int)
    case asking(Question)
    case startingTLS
    case ended
  }

  /// The most that is asked for at once while a payload is read past.
  private static let discardStep = 16 << 10
  private static let offeredFlags: HandshakeFlags = [.fixedNewstyle, .noZeroes]

  private var state = State.clientFlags
  private var optionCount = 0
  private var clientFlags: ClientFlags = []
  let policy: TLSPolicy
  private(set) var isSecure = false
  // What was negotiated; TLS forgets it.
  private(set) var style = HeaderStyle.simple
  private var selected: (exportName: String, contexts: [SelectedContext])?

  package init(policy: TLSPolicy = .none) { self.policy = policy }

  /// What the server sends before anything arrives.
  package static var greeting: [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(bigEndian: Magic.password)
    bytes.append(bigEndian: Magic.option)
    bytes.append(bigEndian: offeredFlags.rawValue)
    return bytes
  }

  /// How many bytes ``take(_:)`` needs next; 0 while an answer or TLS is due, and at the end.
  package var wantedByteCount: Int {
    switch state {
    case .clientFlags: 4
    case .optionHeader: WireLimits.optionHeaderByteCount
    case .optionPayload(_, let byteCount): byteCount
    case .discarding(_, let byteCount): min(byteCount, Self.discardStep)
    case .asking, .startingTLS, .ended: 0
    }
  }

  /// Takes exactly ``wantedByteCount`` bytes.
  /// - Throws: what makes it impossible to go on: the connection is to be closed.
  package mutating func take(_ bytes: [UInt8]) throws(NBDProtocolError) -> [Action] {
    precondition(bytes.count == wantedByteCount && !bytes.isEmpty, "not the bytes that were asked for")
    switch state {
    case .clientFlags: return try takeClientFlags(bytes)
    case .optionHeader: return try takeOptionHeader(bytes)
    case .optionPayload(let option, _):
      state = .optionHeader
      return try takeOption(option, bytes)
    case .discarding(let option, let left):
      guard left == bytes.count else {
        state = .discarding(option, byteCount: left - bytes.count)
        return []
      }
      state = .optionHeader
      return try refuseUnread(option)
    case .asking, .startingTLS, .ended: return []
    }
  }

  /// TLS is up: what was negotiated in the clear is void (proto.md, NBD_OPT_STARTTLS).
  package mutating func secured() {
    precondition(state == .startingTLS, "TLS was not asked for")
    isSecure = true
    style = .simple
    selected = nil
    state = .optionHeader
  }

  private mutating func takeClientFlags(_ bytes: [UInt8]) throws(NBDProtocolError) -> [Action] {
    var reader = WireReader(bytes)
    let value = try reader.integer(UInt32.self, "client flags")
    let known: ClientFlags = [.fixedNewstyle, .noZeroes]
    guard value & ~known.rawValue == 0 else { throw .unknownClientFlags(value) }
    clientFlags = ClientFlags(rawValue: value)
    state = .optionHeader
    return []
  }

  private mutating func takeOptionHeader(_ bytes: [UInt8]) throws(NBDProtocolError) -> [Action] {
    var reader = WireReader(bytes)
    guard try reader.integer(UInt64.self, "option") == Magic.option else { throw .badMagic("option") }
    let option = OptionCode(rawValue: try reader.integer("option"))
    let byteCount = Int(try reader.integer(UInt32.self, "option length"))
    optionCount += 1
    guard optionCount <= WireLimits.optionCount else {
      throw .violation("more than \(WireLimits.optionCount) options in one handshake")
    }
    guard clientFlags.contains(.fixedNewstyle) || option == .exportName else {
      throw .violation("\(option) from a client that doesn't speak fixed newstyle")
    }
    if byteCount == 0 { return try takeOption(option, []) }
    if byteCount <= WireLimits.optionByteCount {
      state = .optionPayload(option, byteCount: byteCount)
    } else if byteCount <= WireLimits.discardedOptionByteCount {
      state = .discarding(option, byteCount: byteCount)
    } else {
      throw .tooLong(
        "\(option)", byteCount: UInt64(byteCount), limit: UInt64(WireLimits.discardedOptionByteCount))
    }
    return []
  }

  private mutating func refuseUnread(_ option: OptionCode) throws(NBDProtocolError) -> [Action] {
    guard option != .exportName else {
      throw .tooLong("an export name", byteCount: UInt64(WireLimits.optionByteCount), limit: 4096)
    }
    return [reply(option, .tooBig, "at most \(WireLimits.optionByteCount) bytes are taken with an option")]
  }

  // MARK: Options

  private mutating func takeOption(_ option: OptionCode, _ payload: [UInt8]) throws(NBDProtocolError) -> [Action] {
    if policy == .required, !isSecure, option != .startTLS, option != .abort {
      // It can't be refused in any other way.
      if option == .exportName { throw .violation("EXPORT_NAME before TLS, which this server requires") }
      if option == .setMetaContext { selected = nil }
      return [reply(option, .tlsRequired, "this server requires TLS")]
    }
    do throws(NBDProtocolError) {
      return try perform(option, payload)
    } catch {
      if option == .exportName { throw error }
      return [reply(option, .invalid, "\(error)")]
    }
  }

  private mutating func perform(_ option: OptionCode, _ payload: [UInt8]) throws(NBDProtocolError) -> [Action] {
    switch option {
    case .exportName: return try askExportName(payload)
    case .abort:
      state = .ended
      return [reply(option, .ack), .close]
    case .list:
      try checkEmpty(payload, option)
      state = .asking(.listings)
      return [.askListings]
    case .startTLS: return try startTLS(payload)
    case .info, .go: return try askInfo(option, payload)
    case .structuredReply: return try negotiateStructured(payload)
    case .extendedHeaders:
      try checkEmpty(payload, option)
      guard style != .extended else { throw .violation("extended headers were negotiated before") }
      style = .extended
      return [reply(option, .ack)]
    case .listMetaContext, .setMetaContext: return try askMetaContexts(option, payload)
    default: return [reply(option, .unsupported, "this server doesn't know \(option)")]
    }
  }

  private func checkEmpty(_ payload: [UInt8], _ option: OptionCode) throws(NBDProtocolError) {
    guard payload.isEmpty else { throw .violation("\(option) takes no data") }
  }

  private mutating func startTLS(_ payload: [UInt8]) throws(NBDProtocolError) -> [Action] {
    try checkEmpty(payload, .startTLS)
    guard !isSecure else { throw .violation("TLS is in use already") }
    guard policy != .none else { return [reply(.startTLS, .policy, "this server has no TLS")] }
    state = .startingTLS
    return [reply(.startTLS, .ack), .startTLS]
  }

  private mutating func negotiateStructured(_ payload: [UInt8]) throws(NBDProtocolError) -> [Action] {
    try checkEmpty(payload, .structuredReply)
    switch style {
    case .simple:
      style = .structured
      return [reply(.structuredReply, .ack)]
    case .structured: throw .violation("structured replies were negotiated before")
    case .extended: return [reply(.structuredReply, .extendedHeadersRequired, "extended headers are in use")]
    }
  }

  private mutating func askExportName(_ payload: [UInt8]) throws(NBDProtocolError) -> [Action] {
    guard style != .extended else { throw .violation("EXPORT_NAME after extended headers") }
    var reader = WireReader(payload)
    let name = try reader.string(byteCount: payload.count, "the export name")
    state = .asking(.exportName)
    return [.askOffer(name: name)]
  }

  private mutating func askInfo(_ option: OptionCode, _ payload: [UInt8]) throws(NBDProtocolError) -> [Action] {
    var reader = WireReader(payload)
    let name = try reader.countedString("the export name")
    let count = Int(try reader.integer(UInt16.self, "the number of information requests"))
    var asks: Set<UInt16> = []
    for _ in 0..<count { asks.insert(try reader.integer("an information request")) }
    try reader.finish("\(option)")
    state = .asking(.info(option, asks: asks))
    return [.askOffer(name: name)]
  }

  private mutating func askMetaContexts(
    _ option: OptionCode, _ payload: [UInt8]
  ) throws(NBDProtocolError) -> [Action] {
    // Even a request that fails replaces what was selected before.
    if option == .setMetaContext { selected = nil }
    guard style != .simple else { throw .violation("\(option) before structured replies") }
    var reader = WireReader(payload)
    let name = try reader.countedString("the export name")
    let count = Int(try reader.integer(UInt32.self, "the number of queries"))
    // Each takes four bytes at least, so the payload bounds the loop.
    guard count * 4 <= reader.remainingByteCount else { throw .truncated("the queries") }
    var queries: [String] = []
    for _ in 0..<count { queries.append(try reader.countedString("a query")) }
    try reader.finish("\(option)")
    state = .asking(.metaContexts(option, queries: queries))
    return [.askOffer(name: name)]
  }

  // MARK: Answers

  /// The answer to ``Action/askListings``.
  package mutating func answer(listings: [ExportListing]) -> [Action] {
    precondition(state == .asking(.listings), "the listings were not asked for")
    state = .optionHeader
    var bytes: [UInt8] = []
    for listing in listings {
      var data: [UInt8] = []
      data.append(bigEndian: UInt32(listing.name.utf8.count))
      data.append(text: listing.name)
      data.append(text: listing.description)
      bytes += Self.replyBytes(.list, .server, data)
    }
    return [.send(bytes + Self.replyBytes(.list, .ack, []))]
  }

  /// The answer to ``Action/askOffer(name:)``: nil if there is no such export, or none by default for "".
  /// - Throws: where the refusal can only be a closed connection.
  package mutating func answer(offer: ExportOffer?) throws(NBDProtocolError) -> [Action] {
    guard case .asking(let question) = state, question != .listings else {
      preconditionFailure("no export was asked for")
    }
    state = .optionHeader
    switch question {
    case .listings: return []
    case .exportName: return try enterByName(offer)
    case .info(let option, let asks): return answerInfo(option, asks, offer)
    case .metaContexts(let option, let queries): return answerMetaContexts(option, queries, offer)
    }
  }

  /// What was asked for is going away: the option gets SHUTDOWN in place of an answer.
  package mutating func refuseQuestion() -> [Action] {
    guard case .asking(let question) = state else { return [] }
    state = .optionHeader
    let option: OptionCode
    switch question {
    case .listings: option = .list
    case .exportName:
      state = .ended
      return [.close]
    case .info(let asked, _), .metaContexts(let asked, _): option = asked
    }
    return [reply(option, .shutdown, "it is shutting down")]
  }

  private mutating func enterByName(_ offer: ExportOffer?) throws(NBDProtocolError) -> [Action] {
    guard let offer else { throw .violation("EXPORT_NAME for an export that doesn't exist") }
    guard isSecure || !offer.requiresTLS else { throw .violation("EXPORT_NAME without TLS for “\(offer.name)”") }
    let agreement = agreement(on: offer)
    var bytes: [UInt8] = []
    bytes.append(bigEndian: offer.byteCount)
    bytes.append(bigEndian: agreement.flags.rawValue)
    if !clientFlags.contains(.noZeroes) { bytes += [UInt8](repeating: 0, count: WireLimits.exportNamePadding) }
    state = .ended
    return [.send(bytes), .enter(agreement)]
  }

  private mutating func answerInfo(_ option: OptionCode, _ asks: Set<UInt16>, _ offer: ExportOffer?) -> [Action] {
    guard let offer else { return [reply(option, .unknown, "there is no such export")] }
    guard isSecure || !offer.requiresTLS else { return [reply(option, .tlsRequired, "this export requires TLS")] }
    let agreement = agreement(on: offer)
    var bytes = Self.infoBytes(option, .export) {
      $0.append(bigEndian: agreement.byteCount)
      $0.append(bigEndian: agreement.flags.rawValue)
    }
    bytes += Self.infoBytes(option, .blockSize) {
      $0.append(bigEndian: agreement.blockSizes.minimum)
      $0.append(bigEndian: agreement.blockSizes.preferred)
      $0.append(bigEndian: agreement.blockSizes.maximum)
    }
    if asks.contains(InfoType.name.rawValue) {
      bytes += Self.infoBytes(option, .name) { $0.append(text: offer.name) }
    }
    if asks.contains(InfoType.description.rawValue), !offer.description.isEmpty {
      bytes += Self.infoBytes(option, .description) { $0.append(text: offer.description) }
    }
    bytes += Self.replyBytes(option, .ack, [])
    guard option == .go else { return [.send(bytes)] }
    state = .ended
    return [.send(bytes), .enter(agreement)]
  }

  private mutating func answerMetaContexts(
    _ option: OptionCode, _ queries: [String], _ offer: ExportOffer?
  ) -> [Action] {
    // ERR_TLS_REQD is for INFO and GO only (proto.md, “SELECTIVETLS mode”).
    guard let offer, isSecure || !offer.requiresTLS else {
      return [reply(option, .unknown, "there is no such export, or it requires TLS")]
    }
    let isSelection = option == .setMetaContext
    let names = MetaContextQueries(queries, isSelection: isSelection).matches(in: offer.contextNames)
    guard names.count <= WireLimits.contextCount || !isSelection else {
      return [reply(option, .tooBig, "at most \(WireLimits.contextCount) contexts at once")]
    }
    var contexts: [SelectedContext] = []
    for (index, name) in names.enumerated() {
      contexts.append(SelectedContext(id: isSelection ? UInt32(index + 1) : 0, name: name))
    }
    if isSelection { selected = (offer.name, contexts) }
    var bytes: [UInt8] = []
    for context in contexts {
      var data: [UInt8] = []
      data.append(bigEndian: context.id)
      data.append(text: context.name)
      bytes += Self.replyBytes(option, .metaContext, data)
    }
    return [.send(bytes + Self.replyBytes(option, .ack, []))]
  }

  private func agreement(on offer: ExportOffer) -> Agreement {
    let contexts = selected?.exportName == offer.name ? selected?.contexts ?? [] : []
    var flags = offer.flags.union(.hasFlags)
    if style != .simple { flags.insert(.sendDF) }
    if style == .extended, !contexts.isEmpty { flags.insert(.blockStatusPayload) }
    return Agreement(
      exportName: offer.name, byteCount: offer.byteCount, flags: flags, blockSizes: offer.blockSizes, style: style,
      contexts: contexts, isSecure: isSecure)
  }

  // MARK: Bytes

  private func reply(_ option: OptionCode, _ code: OptionReplyCode, _ message: String = "") -> Action {
    .send(Self.replyBytes(option, code, Array(message.utf8.prefix(WireLimits.stringByteCount))))
  }

  private static func replyBytes(_ option: OptionCode, _ code: OptionReplyCode, _ data: [UInt8]) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(bigEndian: Magic.optionReply)
    bytes.append(bigEndian: option.rawValue)
    bytes.append(bigEndian: code.rawValue)
    bytes.append(bigEndian: UInt32(data.count))
    return bytes + data
  }

  private static func infoBytes(_ option: OptionCode, _ type: InfoType, _ fill: (inout [UInt8]) -> Void) -> [UInt8] {
    var data: [UInt8] = []
    data.append(bigEndian: type.rawValue)
    fill(&data)
    return replyBytes(option, .info, data)
  }
}
