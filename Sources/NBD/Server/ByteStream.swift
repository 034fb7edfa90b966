import Buffers
import EventLoops
import Glibc

/// A connection's bytes both ways, in the clear or through TLS. Confined to its loop, like the socket below.
///
/// One task receives and one sends at a time.
protocol ByteStream: AnyObject, Sendable {
  /// Waits for bytes and takes what is there; 0 when the peer has ended its side.
  func receive(into buffer: inout MutableRawSpan) async throws(SystemError) -> Int

  /// Sends what can leave at once of these pieces of `bytes`, and returns how many bytes that were.
  func trySend(_ bytes: RawSpan, pieces: [Range<Int>]) throws(SystemError) -> Int

  /// Whether pipes can be sent.
  var carriesPipes: Bool { get }

  /// Sends what can leave at once of the pipe's bytes; true if that was everything.
  func trySend(_ pipe: Pipe) throws(SystemError) -> Bool

  /// Sends all of the pipe's bytes.
  func sendAll(_ pipe: Pipe) async throws(SystemError)

  /// Sends all of `bytes`.
  func sendAll(_ bytes: RawSpan) async throws(SystemError)

  /// Sends these pieces of `bytes`, in this order.
  func sendAll(_ bytes: RawSpan, pieces: [Range<Int>]) async throws(SystemError)

  /// Sends `header`, then `payload`.
  func sendAll(_ header: RawSpan, _ payload: RawSpan) async throws(SystemError)

  /// Takes no more bytes: a wait for some ends as if the peer had ended its side.
  func endReceiving()

  /// Says goodbye where the stream has a way to, after everything was sent.
  func finish() async

  /// Ends the connection; waits end with an error. Idempotent.
  func close()

  /// Gives the connection to another loop; nothing may be in flight.
  func move(to loop: EventLoop)
}

extension ByteStream {
  // Where bytes pass through something on their way, nothing leaves at once.
  func trySend(_ bytes: RawSpan, pieces: [Range<Int>]) throws(SystemError) -> Int { 0 }

  var carriesPipes: Bool { false }
  func trySend(_ pipe: Pipe) throws(SystemError) -> Bool { false }

  func sendAll(_ pipe: Pipe) async throws(SystemError) {
    throw SystemError(EOPNOTSUPP)
  }

  /// Fills `buffer`; fewer bytes only where the peer ended its side.
  func receiveAll(into buffer: inout MutableRawSpan) async throws(SystemError) -> Int {
    var done = 0
    while done < buffer.byteCount {
      var rest = buffer.part(done..<buffer.byteCount)
      let count = try await receive(into: &rest)
      if count == 0 { break }
      done += count
    }
    return done
  }

  /// Exactly `count` bytes, or nil if the peer ended its side before.
  func receiveBytes(_ count: Int) async throws(SystemError) -> [UInt8]? {
    var bytes = [UInt8](repeating: 0, count: count)
    var span = bytes.mutableSpan
    var target = span.mutableBytes
    let done = try await receiveAll(into: &target)
    return done == count ? bytes : nil
  }
}

extension Socket: ByteStream {
  var carriesPipes: Bool { true }

  func endReceiving() { try? shutdown(.reading) }

  func finish() async {}
}
