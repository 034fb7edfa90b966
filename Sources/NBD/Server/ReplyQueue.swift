import Buffers
import EventLoops

/// The replies of one connection: built in one arena while the other is sent, so that what is answered while a send
/// is under way leaves with the next one. Confined to the connection's loop.
///
/// A reply of several pieces with one header before them (a long simple reply, a READ with DF) holds the turn, and
/// all other replies wait until it is complete.
final class ReplyQueue {
  private var filling: ReplyArena
  /// Nil while it is being sent.
  private var spare: ReplyArena?
  /// True once the connection can't be sent on any more: everything is accepted and dropped.
  private(set) var isBroken = false
  private var isEnding = false
  private var isTurnTaken = false
  private var sender: UnsafeContinuation<Void, Never>?
  private var roomWaiters: [UnsafeContinuation<Void, Never>] = []

  init(_ pool: BufferPool) {
    filling = ReplyArena(pool)
    spare = ReplyArena(pool)
  }

  /// Where to build at once: nil while another task has the turn.
  @inline(__always)
  var openArena: ReplyArena? { isTurnTaken || isBroken ? nil : filling }

  /// Waits for room; nil if the connection is broken. The caller uses the arena before it suspends.
  func arena(header: Int, payload: Int, inTurn: Bool = false) async -> ReplyArena? {
    while !isBroken {
      if hasRoom(header, payload, inTurn) { return filling }
      // Looked at again inside, as other tasks may run before the closure does.
      await withUnsafeContinuation { continuation in
        if isBroken || hasRoom(header, payload, inTurn) {
          continuation.resume()
        } else {
          roomWaiters.append(continuation)
        }
      }
    }
    return nil
  }

  private func hasRoom(_ header: Int, _ payload: Int, _ inTurn: Bool) -> Bool {
    (inTurn || !isTurnTaken) && filling.place(header: header, payload: payload) != nil
  }

  func append(_ bytes: [UInt8]) async {
    guard let arena = await arena(header: bytes.count, payload: 0) else { return }
    put(bytes, in: arena)
  }

  private func put(_ bytes: [UInt8], in arena: ReplyArena) {
    guard let place = arena.place(header: bytes.count, payload: 0) else { return }
    arena.commit(place) { $0.copy(from: bytes.span.bytes) }
    wakeSender()
  }

  /// Takes the turn; give it back with ``endTurn()``.
  func beginTurn() async {
    while isTurnTaken {
      await withUnsafeContinuation { continuation in
        if isTurnTaken { roomWaiters.append(continuation) } else { continuation.resume() }
      }
    }
    isTurnTaken = true
  }

  func endTurn() {
    isTurnTaken = false
    wakeRoomWaiters()
  }

  // MARK: Sending

  /// Sends what was built as far as it can leave at once, and leaves the rest to the sender. Called by the receive
  /// loop, which knows when a batch is complete.
  func sendNow(on stream: any ByteStream) {
    guard spare != nil, !isBroken, !filling.isEmpty else { return }
    do throws(SystemError) {
      if try filling.trySend(on: stream) { wakeRoomWaiters() } else { wakeSender() }
    } catch {
      breakOff()
      stream.close()
    }
  }

  /// Bytes that wait to be sent.
  var builtByteCount: Int { filling.usedByteCount }

  /// Something was committed to the arena.
  @inline(__always)
  func wakeSender() {
    if let waiting = sender {
      sender = nil
      waiting.resume()
    }
  }

  /// Sends until ``end()`` was called and all is sent, or sending fails: then the stream is closed.
  func sendAll(on stream: any ByteStream) async {
    while !isBroken {
      if filling.isEmpty {
        if isEnding { return }
        await withUnsafeContinuation { continuation in
          if filling.isEmpty, !isEnding, !isBroken { sender = continuation } else { continuation.resume() }
        }
        continue
      }
      guard let next = spare else { return }
      let batch = filling
      filling = next
      spare = nil
      wakeRoomWaiters()
      do throws(SystemError) {
        try await batch.send(on: stream)
      } catch {
        breakOff()
        stream.close()
      }
      spare = batch
    }
  }

  /// No reply follows.
  func end() {
    isEnding = true
    wakeSender()
  }

  /// Gives up on the connection: waiting tasks go on, and nothing is sent any more.
  func breakOff() {
    isBroken = true
    wakeRoomWaiters()
    wakeSender()
  }

  private func wakeRoomWaiters() {
    let waiting = roomWaiters
    roomWaiters.removeAll(keepingCapacity: true)
    for waiter in waiting { waiter.resume() }
  }
}
