import CLiburing
import Glibc

/// What a socket does here and now, without waiting: a busy connection's bytes come and go by plain system calls, and
/// only its waits pass through the loop.
extension Socket {
  /// Pieces that one ``trySend(_:pieces:)`` takes.
  private static let piecesPerCall = 256

  /// Takes the bytes that have arrived.
  /// - Returns: the count; 0 when the peer has ended its side; nil if nothing is there.
  func tryReceive(_ count: Int, into target: UnsafeMutableRawPointer) throws(SystemError) -> Int? {
    let file = try openDescriptor()
    return try Self.transferred(recv(file, target, count, Int32(MSG_DONTWAIT)))
  }

  /// Sends what the socket takes at once of these pieces of `bytes`, in this order.
  /// - Returns: the bytes sent; 0 if it takes none now, or a `sendAll` is under way.
  package func trySend(_ bytes: RawSpan, pieces: [Range<Int>]) throws(SystemError) -> Int {
    let file = try openDescriptor()
    guard !isSending else { return 0 }
    let count = min(pieces.count, Self.piecesPerCall)
    let sent = bytes.withUnsafeBytes { bytes in
      withUnsafeTemporaryAllocation(of: iovec.self, capacity: count) { parts in
        for index in 0..<count {
          let part = UnsafeMutableRawBufferPointer(mutating: UnsafeRawBufferPointer(rebasing: bytes[pieces[index]]))
          parts.initializeElement(at: index, to: iovec(iov_base: part.baseAddress, iov_len: part.count))
        }
        var message = msghdr()
        message.msg_iov = parts.baseAddress
        message.msg_iovlen = count
        return sendmsg(file, &message, Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL))
      }
    }
    return try Self.transferred(sent) ?? 0
  }

  func openDescriptor() throws(SystemError) -> Int32 {
    loop.checkIsolated()
    guard !isClosed else { throw SystemError(EBADF, "the socket is closed") }
    return file.rawValue
  }

  /// The count that a system call answered; nil if it would have to wait, or to be repeated.
  private static func transferred(_ count: Int) throws(SystemError) -> Int? {
    if count >= 0 { return count }
    if errno == EAGAIN || errno == EINTR { return nil }
    throw .last
  }
}
