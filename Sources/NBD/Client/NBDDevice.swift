import BlockCore
import Buffers
import Bytes
import EventLoops
import Glibc

/// An export of any NBD server as a block device.
///
/// Requests are pipelined over one or several connections and split to what the server takes. When a connection
/// breaks, it is made again for as long as ``Options/reconnectTimeout`` says, and what wasn't answered is sent again.
/// That relies on the server to keep what it has answered across a restart of its own, as its kernel's cache does:
/// a server whose machine loses power between a write and the next flush loses that write, and the flush can't tell.
///
/// A server that is there and says nothing is given up after ``Options/answerTimeout``; a request whose task was
/// cancelled waits for such a one a few seconds only.
package final class NBDDevice: BlockDevice, @unchecked Sendable {
  // Safe to hand over: confined to its loop, like every device.

  package struct Options: Sendable {
    /// Connections, where the server allows several; at most ``NBDDevice/maximumConnectionCount``.
    package var connectionCount = 1
    /// How long one attempt to connect may take, TLS and the handshake included.
    package var connectTimeout = Duration.seconds(10)
    /// For how long a lost connection is tried to be made again; zero: not at all.
    package var reconnectTimeout = Duration.seconds(60)
    /// How long a server that is there may leave all requests without any answer; then they fail. Long enough for a
    /// flush of a full cache to a slow disk.
    package var answerTimeout = Duration.seconds(300)
    /// Refuses changes even if the server would take them.
    package var isReadOnly = false
    /// Metadata contexts to ask for, see ``NBDDevice/contextExtents(of:in:limit:)``.
    package var contexts = ["base:allocation"]
    /// For `nbds:` URIs.
    package var credentials: TLSClientCredentials?
    /// Extended headers are used where the server has them.
    package var usesExtendedHeaders = true
    /// Structured replies are used where the server has them; without, block status isn't known.
    package var usesStructuredReplies = true

    package init() {}
  }

  package static let maximumConnectionCount = 16
  /// The longest range of one request without payload, unless headers are extended.
  private static let rangeByteCount: UInt64 = 1 << 30
  /// Zeroes that are sent as data to servers that know no better.
  private static let zeroByteCount = 1 << 20

  package let uri: NBDURI
  /// What was agreed on with the server.
  package let agreement: Agreement
  package let limits: BlockLimits
  package let isReadOnly: Bool
  package var byteCount: UInt64 { agreement.byteCount }
  private let links: [ClientLink]
  private var isClosed = false
  private var runningCount = 0
  private var closer: UnsafeContinuation<Void, Never>?

  private init(_ uri: NBDURI, _ agreement: Agreement, _ links: [ClientLink], isReadOnly: Bool) {
    self.uri = uri
    self.agreement = agreement
    self.links = links
    self.isReadOnly = isReadOnly || agreement.flags.contains(.readOnly)
    limits = BlockLimits(
      requestAlignment: Int(agreement.blockSizes.minimum), preferredByteCount: Int(agreement.blockSizes.preferred))
  }

  /// Connects to the export. Call it on `loop`, the device's home from then on.
  /// - Throws: `BlockError` of the operation `open`, which says what is wrong with which server.
  package static func open(
    _ uri: NBDURI, _ options: Options = Options(), on loop: EventLoop
  ) async throws(BlockError) -> NBDDevice {
    if uri.usesTLS, options.credentials == nil {
      throw BlockError(.notSupported, .open, cause: "\(uri) needs credentials for TLS")
    }
    var wishes = ClientHandshake.Wishes(exportName: uri.exportName)
    wishes.tls = uri.usesTLS
    wishes.contexts = options.contexts
    wishes.extendedHeaders = options.usesExtendedHeaders
    wishes.structuredReplies = options.usesStructuredReplies
    let dialing = ClientDialing(
      uri: uri, wishes: wishes, credentials: options.credentials, timeout: options.connectTimeout)
    var links: [ClientLink] = []
    do {
      let (stream, agreement) = try await dialing.connect(on: loop)
      let timeout = ClientLink.Timeouts(reconnect: options.reconnectTimeout, answer: options.answerTimeout)
      links.append(ClientLink(stream, agreement, terms: agreement, dialing, timeout, on: loop))
      let count = min(options.connectionCount, maximumConnectionCount)
      while agreement.flags.contains(.canMultiConn), links.count < count {
        let (stream, other) = try await dialing.connect(on: loop)
        links.append(ClientLink(stream, other, terms: agreement, dialing, timeout, on: loop))
        if let change = other.change(from: agreement) {
          throw NBDProtocolError.violation("connections that disagree: \(change)")
        }
      }
      for link in links { link.start() }
      return NBDDevice(uri, agreement, links, isReadOnly: options.isReadOnly)
    } catch {
      for link in links {
        link.start()
        await link.close()
      }
      throw openError(uri, error)
    }
  }

  private static func openError(_ uri: NBDURI, _ error: any Error) -> BlockError {
    if let error = error as? SystemError {
      return BlockError(errno: error.code, .open, cause: "\(uri): \(error)")
    }
    return BlockError(.io(errno: EPROTO), .open, cause: "\(uri): \(error)")
  }

  /// How often connections were made again.
  package var reconnectionCount: Int { links.reduce(0) { $0 + $1.reconnectionCount } }

  // MARK: Requests

  /// Counts a request in.
  private func enter(_ operation: BlockError.Operation) throws(BlockError) {
    if isClosed { throw BlockError(.closed, operation) }
    runningCount += 1
  }

  private func leave() {
    runningCount -= 1
    if runningCount == 0 {
      closer?.resume()
      closer = nil
    }
  }

  /// Has the least busy connection that is left carry out the request.
  private func perform(_ call: ClientCall) async throws(BlockError) {
    var best = links[0]
    for link in links where !link.isDead && (best.isDead || link.load < best.load) { best = link }
    try await best.perform(call)
  }

  package func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    if isClosed { throw BlockError(.closed, .read) }
    try checkRequest(.read, at: offset, length: UInt64(buffer.byteCount))
    return buffer.byteCount == 0
  }

  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError) {
    try enter(.read)
    defer { leave() }
    try checkRequest(.read, at: offset, length: UInt64(buffer.byteCount))
    // The span's owner keeps the memory in place until this returns.
    guard buffer.byteCount > 0, let base = buffer.withUnsafeMutableBytes({ $0.baseAddress }) else { return }
    var done = 0
    while done < buffer.byteCount {
      let count = min(buffer.byteCount - done, payloadByteCount)
      try await perform(
        ClientCall(.read, offset: offset + UInt64(done), length: UInt64(count), target: base + done))
      done += count
    }
  }

  /// The longest payload that both sides take.
  private var payloadByteCount: Int {
    let minimum = Int(agreement.blockSizes.minimum)
    return max(minimum, min(WireLimits.payloadByteCount, Int(agreement.blockSizes.maximum)) / minimum * minimum)
  }

  package func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError) {
    try enter(.write)
    defer { leave() }
    try checkRequest(.write, at: offset, length: UInt64(bytes.byteCount))
    guard bytes.byteCount > 0 else { return }
    try await send(bytes, at: offset, fua(options.contains(.forceUnitAccess)))
    try await flushIfForced(options.contains(.forceUnitAccess))
  }

  private func send(_ bytes: RawSpan, at offset: UInt64, _ flags: CommandFlags) async throws(BlockError) {
    let all = bytes.withUnsafeBytes { $0 }
    var done = 0
    while done < all.count {
      let count = min(all.count - done, payloadByteCount)
      try await perform(
        ClientCall(
          .write, flags: flags, offset: offset + UInt64(done), length: UInt64(count),
          payload: UnsafeRawBufferPointer(rebasing: all[done..<done + count])))
      done += count
    }
  }

  private func fua(_ isForced: Bool) -> CommandFlags {
    isForced && agreement.flags.contains(.sendFUA) ? .fua : []
  }

  /// For servers without FUA.
  private func flushIfForced(_ isForced: Bool) async throws(BlockError) {
    if isForced, !agreement.flags.contains(.sendFUA) { try await sendFlush() }
  }

  private func sendFlush() async throws(BlockError) {
    // A server without FLUSH has nothing that it holds back.
    if agreement.flags.contains(.sendFlush) { try await perform(ClientCall(.flush)) }
  }

  package func flush() async throws(BlockError) {
    try enter(.flush)
    defer { leave() }
    try await sendFlush()
  }

  package func discard(_ range: ByteRange) async throws(BlockError) {
    try enter(.discard)
    defer { leave() }
    try checkRequest(.discard, at: range.offset, length: range.length)
    guard agreement.flags.contains(.sendTrim) else {
      throw BlockError(.notSupported, .discard, range, cause: "the NBD server has no TRIM")
    }
    for part in parts(of: range) {
      try await perform(ClientCall(.trim, offset: part.offset, length: part.length))
    }
  }

  /// Ranges that one request may have.
  private func parts(of range: ByteRange) -> [ByteRange] {
    guard agreement.style != .extended else { return range.isEmpty ? [] : [range] }
    return stride(from: range.offset, to: range.end, by: Int(Self.rangeByteCount)).map {
      ByteRange($0..<min(range.end, $0 + Self.rangeByteCount))
    }
  }

  package func writeZeroes(_ range: ByteRange, options: ZeroOptions) async throws(BlockError) {
    try enter(.writeZeroes)
    defer { leave() }
    try checkRequest(.writeZeroes, at: range.offset, length: range.length)
    let isForced = options.contains(.forceUnitAccess)
    let hasZeroes = agreement.flags.contains(.sendWriteZeroes)
    if options.contains(.onlyIfFast), !range.isEmpty, !(hasZeroes && agreement.flags.contains(.sendFastZero)) {
      throw BlockError(.notFast, .writeZeroes, range, cause: "the NBD server can't tell what is fast")
    }
    var flags = fua(isForced)
    if !options.contains(.mayUnmap) { flags.insert(.noHole) }
    if options.contains(.onlyIfFast) { flags.insert(.fastZero) }
    for part in parts(of: range) {
      if hasZeroes {
        try await perform(ClientCall(.writeZeroes, flags: flags, offset: part.offset, length: part.length))
        // Only the first may decline: after it something was written.
        flags.remove(.fastZero)
      } else {
        try await sendZeroes(part, fua(isForced))
      }
    }
    if !range.isEmpty { try await flushIfForced(isForced) }
  }

  private func sendZeroes(_ range: ByteRange, _ flags: CommandFlags) async throws(BlockError) {
    let zeroes = [UInt8](repeating: 0, count: Int(min(UInt64(Self.zeroByteCount), range.length)))
    var offset = range.offset
    while offset < range.end {
      let count = Int(min(UInt64(zeroes.count), range.end - offset))
      try await send(zeroes.span.bytes.extracting(0..<count), at: offset, flags)
      offset += UInt64(count)
    }
  }

  package func resize(to byteCount: UInt64) async throws(BlockError) {
    if isClosed { throw BlockError(.closed, .resize) }
    throw BlockError(.notSupported, .resize, cause: "an NBD export's size is its server's")
  }

  package func close() async throws(BlockError) {
    guard !isClosed else { return }
    isClosed = true
    await withUnsafeContinuation { continuation in
      if runningCount > 0 { closer = continuation } else { continuation.resume() }
    }
    var failure: BlockError?
    if !isReadOnly {
      do throws(BlockError) { try await sendFlush() } catch { failure = error }
    }
    for link in links { await link.close() }
    if var failure {
      failure.operation = .close
      throw failure
    }
  }

  // MARK: Block status

  package func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
    try enter(.blockStatus)
    defer { leave() }
    try checkRequest(.blockStatus, at: range.offset, length: range.length)
    guard !range.isEmpty else { return [] }
    let names = ["base:allocation", "qemu:allocation-depth"].filter { name in
      agreement.contexts.contains { $0.name == name }
    }
    guard names.contains("base:allocation") else {
      return [Extent(range: range, status: [], depth: 1)]
    }
    let answer = try await ask(names, range, limit: limit)
    return ClientStatus.extents(
      range, limit: limit, allocation: answer["base:allocation"] ?? [], depth: answer["qemu:allocation-depth"])
  }

  /// What each of the named contexts says from `range.offset` on: extents in order, at least one, at most `limit`, and
  /// none past the range's end; perhaps for less than the range, and for each context up to another place.
  /// - Parameter names: of those in ``agreement``; nil: all of them.
  package func contextExtents(
    of names: [String]? = nil, in range: ByteRange, limit: Int
  ) async throws(BlockError) -> [String: [ContextExtent]] {
    try enter(.blockStatus)
    defer { leave() }
    try checkRequest(.blockStatus, at: range.offset, length: range.length)
    let known = agreement.contexts.map(\.name)
    let wanted = names ?? known
    guard !wanted.isEmpty, Set(wanted).isSubset(of: known) else {
      throw BlockError(
        .notSupported, .blockStatus, range, cause: "the NBD server offers \(known), not all of \(wanted)")
    }
    return range.isEmpty ? [:] : try await ask(wanted, range, limit: limit)
  }

  private func ask(
    _ names: [String], _ range: ByteRange, limit: Int
  ) async throws(BlockError) -> [String: [ContextExtent]] {
    let part = parts(of: range)[0]
    let wanted = agreement.contexts.filter { names.contains($0.name) }
    let flags: CommandFlags = limit == 1 ? .reqOne : []
    let call = ClientCall(
      .blockStatus, flags: flags, offset: part.offset, length: part.length,
      contextNames: wanted.count < agreement.contexts.count ? names : nil)
    try await perform(call)
    var answer: [String: [ContextExtent]] = [:]
    for context in wanted {
      guard let extents = call.status[context.name] else {
        throw BlockError(.io(errno: EPROTO), .blockStatus, part, cause: "the NBD server left out \(context.name)")
      }
      answer[context.name] = ClientStatus.clipped(extents, to: part.length, limit: limit)
    }
    return answer
  }
}
