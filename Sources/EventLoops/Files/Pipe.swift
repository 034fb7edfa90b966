import CLiburing
import Descriptors
import Glibc

/// A pipe that takes pages of a file's cache to a socket without copying them. One user at a time.
package final class Pipe: @unchecked Sendable {
  // Safe to hand over: the lender takes it back before the next borrower gets it.

  private let readingEnd: FileDescriptor
  private let writingEnd: FileDescriptor
  /// What it holds at most, if all of it is whole pages.
  package let byteCapacity: Int
  /// Bytes that were put in, as the writer notes here, and not yet taken out.
  package var byteCount = 0

  /// - Parameter byteCapacity: wanted; the system may grant less.
  package init(byteCapacity: Int) throws(SystemError) {
    var ends: (Int32, Int32) = (-1, -1)
    let result = withUnsafeMutableBytes(of: &ends) {
      pipe2($0.assumingMemoryBound(to: Int32.self).baseAddress, O_CLOEXEC)
    }
    guard result == 0 else { throw .last }
    readingEnd = FileDescriptor(adopting: ends.0)
    writingEnd = FileDescriptor(adopting: ends.1)
    _ = shim_set_pipe_byte_count(ends.1, Int32(clamping: byteCapacity))
    self.byteCapacity = Int(max(0, shim_pipe_byte_count(ends.1)))
  }

  /// Where bytes are put in.
  package var writingDescriptor: Int32 { writingEnd.rawValue }
  var readingDescriptor: Int32 { readingEnd.rawValue }
}

extension EventLoop {
  /// Puts bytes of a file's cache into an empty pipe, reading them from the device where they aren't there.
  /// - Returns: how many: as many as the pipe holds, fewer where the file ends.
  package func fill(
    pipe descriptor: Int32, from file: FileDescriptor, at offset: UInt64, byteCount: Int,
    in lane: BlockingLane = .shared
  ) async throws(SystemError) -> Int {
    let result = await perform(.splice(file.rawValue, offset: offset, toPipe: descriptor, count: byteCount), in: lane)
    if result < 0 { throw SystemError(-result) }
    return Int(result)
  }
}

extension Socket {
  /// Sends what the socket takes at once of the pipe's bytes; true if the pipe is empty now.
  package func trySend(_ pipe: Pipe) throws(SystemError) -> Bool {
    let file = try openDescriptor()
    guard !isSending else { return false }
    return try transfer(pipe, to: file)
  }

  /// Sends all of the pipe's bytes, waiting while the peer doesn't take them.
  package func sendAll(_ pipe: Pipe) async throws(SystemError) {
    beginSending()
    defer { endSending() }
    while try !transfer(pipe, to: try openDescriptor()) { _ = try await perform(.awaitRoom(file.rawValue)) }
  }

  /// The flag of the call is about the pipe; that the socket mustn't wait has to be said of its file. Nobody else
  /// uses it meanwhile: what the ring has under way has taken note of the flag already.
  private func transfer(_ pipe: Pipe, to file: Int32) throws(SystemError) -> Bool {
    let flags = fcntl(file, F_GETFL)
    guard fcntl(file, F_SETFL, flags | O_NONBLOCK) == 0 else { throw .last }
    defer { _ = fcntl(file, F_SETFL, flags) }
    while pipe.byteCount > 0 {
      let sent = shim_splice_to_socket(pipe.readingDescriptor, file, pipe.byteCount)
      if sent > 0 {
        pipe.byteCount -= sent
      } else if sent == 0 {
        throw SystemError(EIO, "a pipe lost its bytes")
      } else if errno == EAGAIN {
        return false
      } else if errno != EINTR {
        throw .last
      }
    }
    return true
  }
}
