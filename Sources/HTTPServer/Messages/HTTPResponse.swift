import Descriptors

/// An answer: status, header fields and content.
///
/// To a HEAD request the content's length is told and the content dropped; a stream's producer isn't run.
package struct HTTPResponse: Sendable {
  package enum Content: Sendable {
    case bytes([UInt8])
    /// A range of an open file.
    case file(HTTPFile)
    /// What the producer writes, sent as the client takes it. A length that is known is announced, and the
    /// producer must write exactly that much; without it the content is chunked. A producer that throws breaks
    /// the connection, so that the client can tell that the content isn't whole.
    case stream(length: UInt64?, @Sendable (HTTPBodyWriter) async throws -> Void)
    /// Server-sent events until either side ends them.
    case events(ServerSentEvents)
  }

  package var status: Int
  package var headers: HTTPFields
  package var content: Content

  package init(status: Int, headers: HTTPFields = [:], content: Content = .bytes([])) {
    self.status = status
    self.headers = headers
    self.content = content
  }
}

/// A range of an open regular file, the content of one response. Owns the descriptor and closes it after use.
package final class HTTPFile: Sendable {
  package let offset: UInt64
  package let length: UInt64
  private let file: FileDescriptor

  /// Takes the descriptor over; the range must lie within the file.
  package init(descriptor: Int32, offset: UInt64, length: UInt64) {
    file = FileDescriptor(adopting: descriptor)
    self.offset = offset
    self.length = length
  }

  /// Hands the file over to the caller; nil if it is gone already.
  func takeDescriptor() -> FileDescriptor? { FileDescriptor(result: file.release()) }
}
