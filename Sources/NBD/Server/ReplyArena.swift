import Buffers
import EventLoops

/// A batch of replies on their way out: memory that is filled once and sent with one call, with gaps so that each
/// payload is aligned and its header stands right before it.
///
/// Confined to its connection's loop. Filled by one side, then handed as a whole to the sender.
final class ReplyArena {
  /// The longest payload that is built in one piece.
  static let pieceByteCount = 256 << 10
  /// Room for one such piece with its header; two arenas of a connection make up its reply bytes in flight.
  static let byteCount = pieceByteCount + pageByteCount
  /// What payloads are aligned to: a cache line.
  private static let alignment = 64
  private static let maximumPieceCount = 1024

  /// Where a header and the payload behind it may go.
  struct Place {
    fileprivate let start: Int
    fileprivate let payloadStart: Int
    fileprivate let end: Int
  }

  private var memory: PageBuffer
  private var pieces: [Range<Int>] = []
  private var used = 0
  /// What follows all pieces, and where it is given back to when it is sent.
  private var tail: (pipe: Pipe, pool: PipePool)?

  init(_ pool: BufferPool) {
    memory = pool.take(Self.byteCount)
    pieces.reserveCapacity(64)
  }

  deinit { giveTailBack() }

  var isEmpty: Bool { pieces.isEmpty && tail == nil }

  /// Bytes that wait to be sent, and the gaps between them.
  var usedByteCount: Int { used }

  /// A place for that many bytes, nil if there is no room. Nothing is taken until ``commit(_:_:)``.
  @inline(__always)
  func place(header: Int, payload: Int) -> Place? {
    let payloadStart =
      payload == 0
      ? used + header : (used + header + Self.alignment - 1) / Self.alignment * Self.alignment
    guard tail == nil, payloadStart + payload <= memory.byteCount, pieces.count < Self.maximumPieceCount else {
      return nil
    }
    return Place(start: payloadStart - header, payloadStart: payloadStart, end: payloadStart + payload)
  }

  /// Lends the payload's bytes to be filled.
  @inline(__always)
  func fill<Result, Failure: Error>(
    _ place: Place, _ body: (inout MutableRawSpan) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    try Self.lend(&memory, place.payloadStart..<place.end, body)
  }

  @inline(__always)
  private static func lend<Result, Failure: Error>(
    _ memory: inout PageBuffer, _ range: Range<Int>, _ body: (inout MutableRawSpan) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    var all = memory.mutableBytes
    var part = all.part(range)
    return try body(&part)
  }

  func isPayloadZero(_ place: Place) -> Bool { Self.isZero(memory, place.payloadStart..<place.end) }

  private static func isZero(_ memory: borrowing PageBuffer, _ range: Range<Int>) -> Bool {
    memory.bytes.extracting(range).isZero
  }

  /// Appends what stands at the place; `putHeader` fills the header.
  @inline(__always)
  func commit(_ place: Place, _ putHeader: (inout MutableRawSpan) -> Void) {
    if place.payloadStart > place.start { Self.lend(&memory, place.start..<place.payloadStart, putHeader) }
    used = place.end
    if let last = pieces.last, last.upperBound == place.start {
      pieces[pieces.count - 1] = last.lowerBound..<place.end
    } else {
      pieces.append(place.start..<place.end)
    }
  }

  /// Appends a pipe's bytes; nothing goes behind them until all was sent.
  func append(_ pipe: Pipe, of pool: PipePool) { tail = (pipe, pool) }

  private func giveTailBack() {
    if let (pipe, pool) = tail { pool.giveBack(pipe) }
    tail = nil
  }

  /// Sends what can leave at once; true if that was everything, and the arena is empty.
  func trySend(on stream: any ByteStream) throws(SystemError) -> Bool {
    if !pieces.isEmpty { try dropFirst(Self.trySend(memory, pieces, on: stream)) }
    if pieces.isEmpty, let tail, try stream.trySend(tail.pipe) { giveTailBack() }
    return isEmpty
  }

  /// Sends everything and empties the arena.
  func send(on stream: any ByteStream) async throws(SystemError) {
    if try trySend(on: stream) { return }
    if !pieces.isEmpty {
      defer { empty() }
      try await Self.send(memory, pieces, on: stream)
    }
    if let tail {
      try await stream.sendAll(tail.pipe)
      giveTailBack()
    }
  }

  private func empty() {
    used = 0
    pieces.removeAll(keepingCapacity: true)
  }

  /// Forgets the first `byteCount` bytes of the pieces.
  private func dropFirst(_ byteCount: Int) {
    var left = byteCount
    var whole = 0
    while whole < pieces.count, pieces[whole].count <= left {
      left -= pieces[whole].count
      whole += 1
    }
    if whole == pieces.count { return empty() }
    pieces.removeFirst(whole)
    pieces[0] = pieces[0].lowerBound + left..<pieces[0].upperBound
  }

  private static func trySend(
    _ memory: borrowing PageBuffer, _ pieces: [Range<Int>], on stream: any ByteStream
  ) throws(SystemError) -> Int {
    try stream.trySend(memory.bytes, pieces: pieces)
  }

  private static func send(
    _ memory: borrowing PageBuffer, _ pieces: [Range<Int>], on stream: any ByteStream
  ) async throws(SystemError) {
    try await stream.sendAll(memory.bytes, pieces: pieces)
  }
}
