import BlockCore

/// One request of a client from when it is made to its answer, over however many connections that takes.
///
/// Confined to the device's loop. Its maker waits for it, and keeps the memory that it points at in place.
final class ClientCall: @unchecked Sendable {
  // Safe to hand over: confined to the device's loop.

  let command: Command
  let flags: CommandFlags
  let offset: UInt64
  let length: UInt64
  /// READ: where the data goes, `length` bytes.
  private let target: UnsafeMutableRawPointer?
  /// What follows the header.
  private let payload: UnsafeRawBufferPointer?
  /// BLOCK_STATUS: the contexts to tell of, where the server lets the client choose; nil: all.
  private let contextNames: [String]?
  var continuation: UnsafeContinuation<Result<Void, BlockError>, Never>?
  private(set) var isFinished = false
  /// Its maker would rather not wait for it.
  private(set) var isCancelled = false
  private var hurrying: Task<Void, Never>?
  /// How often it was sent.
  var attemptCount = 0

  // What has arrived in this attempt.
  private(set) var coveredByteCount: UInt64 = 0
  private(set) var failure: (error: WireError, message: String)?
  /// By the context's name.
  private(set) var status: [String: [ContextExtent]] = [:]

  init(
    _ command: Command, flags: CommandFlags = [], offset: UInt64 = 0, length: UInt64 = 0,
    target: UnsafeMutableRawPointer? = nil, payload: UnsafeRawBufferPointer? = nil, contextNames: [String]? = nil
  ) {
    self.command = command
    self.flags = flags
    self.offset = offset
    self.length = length
    self.target = target
    self.payload = payload
    self.contextNames = contextNames
  }

  /// What goes before ``payloadBytes``.
  func header(cookie: UInt64, _ agreement: Agreement) -> [UInt8] {
    var request = Request(command, flags: flags, cookie: cookie, offset: offset, length: length)
    guard agreement.style == .extended else { return request.bytes(agreement.style) }
    if let payload {
      request.flags.insert(.payloadLength)
      request.length = UInt64(payload.count)
    }
    guard let contextNames, agreement.flags.contains(.blockStatusPayload) else { return request.bytes(.extended) }
    let wanted = agreement.contexts.filter { contextNames.contains($0.name) }
    let wish = BlockStatusPayload(effectLength: length, contextIDs: wanted.map(\.id)).bytes
    request.flags.insert(.payloadLength)
    request.length = UInt64(wish.count)
    return request.bytes(.extended) + wish
  }

  /// The data that follows the header; empty for most requests.
  var payloadBytes: RawSpan {
    @_lifetime(borrow self)
    get {
      _overrideLifetime(
        RawSpan(_unsafeStart: payload?.baseAddress ?? UnsafeRawPointer(Self.noBytes), byteCount: payload?.count ?? 0),
        borrowing: self)
    }
  }

  private nonisolated(unsafe) static let noBytes = UnsafeMutableRawPointer.allocate(byteCount: 1, alignment: 1)

  /// Forgets what arrived: the request is sent again.
  func restart() {
    coveredByteCount = 0
    failure = nil
    status = [:]
  }

  // MARK: Answers

  /// Where `count` bytes of data from `start` on go; counts them as arrived.
  func place(at start: UInt64, count: UInt64) throws(NBDProtocolError) -> UnsafeMutableRawBufferPointer {
    guard command == .read, let target, start >= offset, count > 0, count <= length,
      start - offset <= length - count, coveredByteCount + count <= length
    else { throw .violation("data that the READ didn't ask for, or twice") }
    coveredByteCount += count
    return UnsafeMutableRawBufferPointer(start: target + Int(start - offset), count: Int(count))
  }

  /// Keeps the first failure that the server tells.
  func refuse(_ error: WireError, _ message: String) {
    if failure == nil { failure = (error, message) }
  }

  func take(_ chunk: StatusChunk, _ agreement: Agreement) throws(NBDProtocolError) {
    guard command == .blockStatus, let context = agreement.contexts.first(where: { $0.id == chunk.contextID }),
      status[context.name] == nil
    else { throw .violation("a status that wasn't asked for, or twice") }
    status[context.name] = chunk.extents
  }

  /// The outcome once the last part of the answer is there.
  func outcome() throws(NBDProtocolError) -> Result<Void, BlockError> {
    if let failure {
      let operation = command.operation
      let text = failure.message.isEmpty ? "told by the NBD server" : "the NBD server says: \(failure.message)"
      return .failure(
        BlockError(failure.error.blockErrorKind(for: operation), operation, range, cause: text))
    }
    if command == .read, coveredByteCount != length { throw .violation("a READ that was answered in part") }
    return .success(())
  }

  /// Notes that its maker no longer wants to wait for it; `hurrying` sees to it, and ends with it.
  func cancel(_ hurrying: Task<Void, Never>) {
    isCancelled = true
    self.hurrying = hurrying
    if isFinished { hurrying.cancel() }
  }

  /// Ends it without an answer.
  func fail(_ kind: BlockError.Kind, _ cause: String?) {
    finish(.failure(BlockError(kind, command.operation, range, cause: cause)))
  }

  private var range: ByteRange? { length > 0 ? ByteRange(offset: offset, length: length) : nil }

  func finish(_ result: Result<Void, BlockError>) {
    isFinished = true
    hurrying?.cancel()
    let waiting = continuation
    continuation = nil
    waiting?.resume(returning: result)
  }
}

extension Command {
  var operation: BlockError.Operation {
    switch self {
    case .read, .cache: .read
    case .write: .write
    case .flush: .flush
    case .trim: .discard
    case .writeZeroes: .writeZeroes
    case .blockStatus: .blockStatus
    case .disconnect: .close
    }
  }
}
