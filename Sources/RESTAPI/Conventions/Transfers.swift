import HTTPServer
import Locks
import Model

/// Requests that move many bytes. Few do at a time, so that the memory for them is bounded; others are told to come again.
final class Transfers: Sendable {
  /// Each takes a few times ``BitmapBits/maximumByteCount`` at most.
  static let limit = 4

  private let count = Lock(0)

  /// - Throws: `tooManyRequests`.
  func begin() throws(DomainError) -> Transfer {
    let hasRoom = count.withLock { count in
      guard count < Self.limit else { return false }
      count += 1
      return true
    }
    guard hasRoom else {
      throw DomainError(.tooManyRequests, "\(Self.limit) transfers of bits are under way, as many as are allowed")
    }
    return Transfer { [self] in count.withLock { $0 -= 1 } }
  }
}

/// One of the transfers, as long as this lives.
final class Transfer: Sendable {
  private let end: @Sendable () -> Void

  init(end: @escaping @Sendable () -> Void) { self.end = end }

  deinit { end() }

  /// The response, which keeps the transfer alive until it is sent.
  func carrying(_ response: HTTPResponse) -> HTTPResponse {
    guard case .bytes(let bytes) = response.content else { return response }
    var response = response
    let piece = HTTPBodyWriter.highWater
    response.content = .stream(length: UInt64(bytes.count)) { [self] writer in
      for start in stride(from: 0, to: bytes.count, by: piece) {
        try await writer.write(Array(bytes[start..<min(bytes.count, start + piece)]))
      }
      withExtendedLifetime(self) {}
    }
    return response
  }
}
