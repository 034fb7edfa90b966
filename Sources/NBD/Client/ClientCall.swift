import BlockCore

/// One request of a client from when it is made to its answer, over however many connections that takes.
///
/// Confined to the device's loop. Whoever made it waits for it, and keeps the memory that it points at in place.
final class ClientCall {
  let command: Command
  let flags: CommandFlags
  let offset: UInt64
  let length: UInt64
  /// READ: where the data goes, `length` bytes.
  private let target: UnsafeMutableRawPointer?
  /// What follows the header.
  private let payload: UnsafeRawBufferPointer?
  var continuation: UnsafeContinuation<Result<Void, BlockError>, Never>?
  /// How often it was sent.
  var attemptCount = 0

  // What has arrived in this attempt.
  private(set) var coveredByteCount: UInt64 = 0
  private(set) var failure: (error: WireError, message: String)?
  private(set) var status: [UInt32: [ContextExtent]] = [:]

  init(
    _ command: Command, flags: CommandFlags = [], offset: UInt64 = 0, length: UInt64 = 0,
    target: UnsafeMutableRawPointer? = nil, payload: UnsafeRawBufferPointer? = nil
  ) {
    self.command = command
    self.flags = flags
    self.offset = offset
    self.length = length
    self.target = target
    self.payload = payload
  }

  func request(cookie: UInt64, style: HeaderStyle) -> Request {
    let carriesPayload = style == .extended && payload != nil
    return Request(
      command, flags: carriesPayload ? flags.union(.payloadLength) : flags, cookie: cookie, offset: offset,
      length: carriesPayload ? UInt64(payload?.count ?? 0) : length)
  }

  /// The bytes that follow the header; empty for most requests.
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

  /// Keeps the first failure that is told.
  func fail(_ error: WireError, _ message: String) {
    if failure == nil { failure = (error, message) }
  }

  func take(_ chunk: StatusChunk) throws(NBDProtocolError) {
    guard command == .blockStatus, status[chunk.contextID] == nil else {
      throw .violation("a status that wasn't asked for, or twice")
    }
    status[chunk.contextID] = chunk.extents
  }

  /// The outcome once the last part of the answer is there.
  func outcome() throws(NBDProtocolError) -> Result<Void, BlockError> {
    if let failure {
      let operation = command.operation
      let range = ByteRange(offset: offset, length: length)
      let text = failure.message.isEmpty ? "told by the NBD server" : "the NBD server says: \(failure.message)"
      return .failure(
        BlockError(failure.error.blockErrorKind(for: operation), operation, range, cause: text))
    }
    if command == .read, coveredByteCount != length { throw .violation("a READ that was answered in part") }
    return .success(())
  }

  func finish(_ result: Result<Void, BlockError>) {
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
