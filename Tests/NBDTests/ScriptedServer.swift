import Foundation
import Glibc

/// A server that plays its part by hand: a sound handshake, and then whatever a test has it do.
final class ScriptedServer: Sendable {
  struct Terms: Sendable {
    var byteCount: UInt64 = 1 << 20
    /// HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES.
    var flags: UInt16 = 0b110_1101
    var isStructured = true
    /// The id that `base:allocation` gets; nil: the server has no contexts.
    var contextID: UInt32? = 1
    /// The export isn't known yet when contexts are asked for.
    var comesUpLate = false
  }

  struct Request: Sendable {
    let type: UInt16
    let cookie: [UInt8]
    let offset: UInt64
    let length: UInt64
    let payload: [UInt8]
  }

  private let listener: BlockingListener
  var path: String { listener.path }
  var uri: String { "nbd+unix:///disk?socket=\(path)" }

  /// - Parameters:
  ///   - terms: what each connection is told, by its number.
  ///   - serve: what happens after the handshake; the connection ends when it returns.
  init(
    _ path: String, terms: @escaping @Sendable (Int) -> Terms = { _ in Terms() },
    serve: @escaping @Sendable (BlockingSocket, Int) -> Void
  ) throws {
    listener = try BlockingListener(path) { socket, number in
      if Self.shakeHands(socket, terms(number)) { serve(socket, number) }
    }
  }

  /// False if the client left.
  private static func shakeHands(_ socket: BlockingSocket, _ terms: Terms) -> Bool {
    socket.send(Array("NBDMAGICIHAVEOPT".utf8) + [0, 3])
    guard socket.receiveAll(4) != nil else { return false }
    while let header = socket.receiveAll(16) {
      let (option, length) = (header[8..<12], Int(number(header[12..<16])))
      guard length == 0 || socket.receiveAll(length) != nil else { return false }
      func reply(_ type: UInt32, _ data: [UInt8] = []) {
        socket.send(big(UInt64(0x3_e889_0455_65a9)) + option + big(type) + big(UInt32(data.count)) + data)
      }
      switch (number(option), terms.isStructured, terms.contextID) {
      case (7, _, _):
        reply(3, [0, 0] + big(terms.byteCount) + big(terms.flags))
        reply(1)
        return true
      case (8, true, _): reply(1)
      case (10, true, _) where terms.comesUpLate: reply(1 << 31 | 6)
      case (10, true, .some(let id)):
        reply(4, big(id) + Array("base:allocation".utf8))
        reply(1)
      default: reply(1 << 31 | 1)
      }
    }
    return false
  }

  /// The next request of the client; nil when it has left.
  static func request(_ socket: BlockingSocket) -> Request? {
    guard let header = socket.receiveAll(28), number(header[0..<4]) == 0x2560_9513 else { return nil }
    let (type, length) = (UInt16(number(header[6..<8])), number(header[24..<28]))
    guard let payload = type == 1 ? socket.receiveAll(Int(length)) : [], type != 2 else { return nil }
    return Request(
      type: type, cookie: Array(header[8..<16]), offset: number(header[16..<24]), length: length, payload: payload)
  }

  static func simple(_ request: Request, error: UInt32 = 0) -> [UInt8] {
    big(UInt32(0x6744_6698)) + big(error) + request.cookie
  }

  static func chunk(_ request: Request, type: UInt16, isLast: Bool = true, _ payload: [UInt8]) -> [UInt8] {
    big(UInt32(0x668e_33ef)) + [0, isLast ? 1 : 0] + big(type) + request.cookie + big(UInt32(payload.count)) + payload
  }

  /// The right answer to anything, of an export that is all `byte`.
  static func answer(_ request: Request, byte: UInt8 = 9, contextID: UInt32 = 1) -> [UInt8] {
    switch request.type {
    case 0: chunk(request, type: 1, big(request.offset) + [UInt8](repeating: byte, count: Int(request.length)))
    case 7: chunk(request, type: 5, big(contextID) + big(UInt32(request.length)) + big(UInt32(0)))
    default: simple(request)
    }
  }

  /// Answers rightly until the client leaves.
  static func serveRightly(_ socket: BlockingSocket, contextID: UInt32 = 1) {
    while let request = request(socket) { socket.send(answer(request, contextID: contextID)) }
  }
}
