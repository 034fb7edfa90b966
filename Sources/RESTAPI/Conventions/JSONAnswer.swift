import HTTPServer
import Model
import Orchestrator

/// Answers in JSON, with their versions.
enum JSONAnswer {
  static let contentType = "application/json"
  static let problemContentType = "application/problem+json"

  /// 200 with the value, or 304 where the request knows it already.
  ///
  /// - Parameter revision: of the resource that is shown, if it is one.
  static func ok(_ value: some JSONWritable, revision: Int? = nil, to call: Call) throws(DomainError) -> HTTPResponse {
    try ok(JSONWriter.text(of: value), tag: nil, revision: revision, to: call.request)
  }

  /// The same where the tag is of less than what is shown.
  static func ok(_ value: some JSONWritable, tag: String, to call: Call) throws(DomainError) -> HTTPResponse {
    try ok(JSONWriter.text(of: value), tag: tag, revision: nil, to: call.request)
  }

  static func ok(
    _ bytes: [UInt8], tag known: String? = nil, revision: Int?, to request: HTTPRequest
  ) throws(DomainError) -> HTTPResponse {
    let tag = known ?? EntityTag.of(bytes, revision: revision)
    if try isKnown(tag, to: request) { return notModified(tag: tag) }
    return HTTPResponse(status: 200, headers: ["Content-Type": contentType, "ETag": tag], content: .bytes(bytes))
  }

  /// Whether `If-None-Match` names this version.
  static func isKnown(_ tag: String, to request: HTTPRequest) throws(DomainError) -> Bool {
    let list = try EntityTagList(request.headers.values("If-None-Match"), header: "If-None-Match")
    return list?.matchesWeakly(tag) ?? false
  }

  static func notModified(tag: String) -> HTTPResponse {
    HTTPResponse(status: 304, headers: ["ETag": tag])
  }

  /// A value that was computed for this request, and has no version.
  static func computed(_ value: some JSONWritable) -> HTTPResponse {
    HTTPResponse(status: 200, headers: ["Content-Type": contentType], content: .bytes(JSONWriter.text(of: value)))
  }

  static func problem(_ error: DomainError, to request: HTTPRequest) -> HTTPResponse {
    let document = ProblemDocument(error, instance: "/requests/\(request.id)")
    var headers: HTTPFields = ["Content-Type": problemContentType]
    if let seconds = document.type.retryAfter { headers["Retry-After"] = String(seconds) }
    return HTTPResponse(
      status: document.type.status, headers: headers, content: .bytes(JSONWriter.text(of: document)))
  }
}
