/// Port: what answers the requests of a server.
package protocol HTTPResponder: Sendable {
  /// Judges a request by its head, before any of its body is read. Runs on a thread of libmicrohttpd and must not
  /// block; the body can't be read here.
  func admit(_ request: HTTPRequest) -> HTTPAdmission

  /// Answers what needs no waiting, on a thread of libmicrohttpd, where it must not block. Only requests without a
  /// body come here; `nil` leaves the request to `answer`.
  func answerNow(_ request: HTTPRequest) -> HTTPResponse?

  /// Answers a request, in a task of its own that is cancelled when the client goes away or the server's grace ends.
  ///
  /// libmicrohttpd sends nothing before a body is in: what of the body isn't read when this returns is thrown away.
  /// `HTTPBodyTooLarge` becomes the fault `bodyTooLarge`, any other error `internalError`.
  func answer(_ request: HTTPRequest) async throws -> HTTPResponse

  /// The answer to a fault that the server itself found. May run on any thread and must not block.
  func response(to fault: HTTPFault, for request: HTTPRequest) -> HTTPResponse
}

extension HTTPResponder {
  package func admit(_ request: HTTPRequest) -> HTTPAdmission { .accept(bodyLimit: 1 << 20) }
  package func answerNow(_ request: HTTPRequest) -> HTTPResponse? { nil }
}

/// The verdict on a request's head.
package enum HTTPAdmission: Sendable {
  /// Go on; a body of more bytes than this is the fault `bodyTooLarge`.
  case accept(bodyLimit: Int)
  /// Answer at once. The connection is closed afterwards, as the body that may follow isn't read.
  case reject(HTTPResponse)
}

/// What the server itself has to refuse.
package enum HTTPFault: Error, Sendable {
  /// The request target is neither a path in visible ASCII nor `*`. 400.
  case malformedTarget(String)
  /// The length of the body is told twice, or in a way that isn't supported (RFC 9112, 6). 400.
  case badFraming(String)
  /// The body is longer than `admit` allowed, or than a handler's `collect(limit:)`. 413.
  case bodyTooLarge(limit: Int)
  /// As many event streams as are allowed are open. 503.
  case tooManyEventStreams(limit: Int)
  /// The server is stopping. 503.
  case stopping
  /// The handler threw this. 500.
  case internalError(any Error)
}

/// The body has more bytes than the limit.
package struct HTTPBodyTooLarge: Error, Sendable {
  package let limit: Int
}

/// The client has closed the connection, or was dropped.
package struct HTTPClientGone: Error, Sendable {
  package init() {}
}
