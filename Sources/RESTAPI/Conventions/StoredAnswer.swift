import Foundation
import HTTPServer
import Orchestrator

/// A whole answer, as it was sent: also what is kept under an idempotency key.
struct StoredAnswer: Hashable, Sendable, Codable {
  var status: Int
  var headers: [String: String]
  var body: String
}

extension StoredAnswer {
  /// An answer that shows a resource.
  ///
  /// - Parameter tag: where it is of less than what is shown.
  init(_ status: Int, _ value: some JSONWritable, tag: String? = nil, revision: Int, location: String? = nil) {
    let bytes = JSONWriter.text(of: value)
    let tag = tag ?? EntityTag.of(bytes, revision: revision)
    var headers = ["Content-Type": JSONAnswer.contentType, "ETag": tag]
    headers["Location"] = location
    self.init(status: status, headers: headers, body: String(decoding: bytes, as: UTF8.self))
  }

  /// An answer that shows what has no revision.
  init(_ status: Int, _ value: some JSONWritable, location: String? = nil) {
    let bytes = JSONWriter.text(of: value)
    var headers = ["Content-Type": JSONAnswer.contentType, "ETag": EntityTag.of(bytes, revision: nil)]
    headers["Location"] = location
    self.init(status: status, headers: headers, body: String(decoding: bytes, as: UTF8.self))
  }

  /// 204: done, and there is nothing to show.
  static var noContent: StoredAnswer { StoredAnswer(status: 204, headers: [:], body: "") }

  var response: HTTPResponse {
    var fields = HTTPFields()
    for header in headers.sorted(by: { $0.key < $1.key }) { fields.append(header.key, header.value) }
    return HTTPResponse(status: status, headers: fields, content: .bytes(Array(body.utf8)))
  }

  // MARK: Keeping

  init(_ kept: KeptAnswer) throws {
    self = try JSONDecoder().decode(StoredAnswer.self, from: Data(kept.text.utf8))
  }

  var kept: KeptAnswer {
    get throws { KeptAnswer(String(decoding: try JSONEncoder().encode(self), as: UTF8.self)) }
  }
}
