import HTTPServer
import Model

/// The bits of a bitmap: the one resource that isn't JSON.
///
/// Its version is the bitmap's generation. A PUT adds to what is there, so it must say by `If-Match` what that may be.
enum BitsAnswer {
  static let contentType = "application/octet-stream"

  /// 200 with the bits, or 304 where the request knows them already.
  static func ok(_ bits: BitmapBits, to call: Call) throws(DomainError) -> HTTPResponse {
    let tag = "\"\(bits.generation)\""
    if try JSONAnswer.isKnown(tag, to: call.request) { return JSONAnswer.notModified(tag: tag) }
    return HTTPResponse(status: 200, headers: ["Content-Type": contentType, "ETag": tag], content: .bytes(bits.bytes))
  }

  /// The bits of a PUT.
  /// - Throws: `preconditionRequired` without `If-Match`.
  static func sent(by call: Call) throws(DomainError) -> BitmapImport {
    let tags = try EntityTagList(call.request.headers.values("If-Match"), header: "If-Match")
    guard let tags else {
      throw DomainError(
        .preconditionRequired, "the request doesn't say which version of the bits it adds to",
        remedy: "send 'If-Match' with the ETag of the bits, or 'If-Match: *'")
    }
    return BitmapImport(
      bytes: call.body, generation: call.query.text(.generation), replaceable: tags.opaqueTags)
  }

  /// A bitmap after bits were added to it. It has no ETag: that of the bits isn't that of the bitmap.
  static func changed(_ bitmap: ChangedBitmapDocument) -> StoredAnswer {
    StoredAnswer(
      status: 200, headers: ["Content-Type": JSONAnswer.contentType],
      body: String(decoding: JSONWriter.text(of: bitmap), as: UTF8.self))
  }
}

extension EntityTagList {
  /// What stands between the quotes of strong tags; nil for any.
  fileprivate var opaqueTags: [String]? {
    switch self {
    case .any: nil
    case .tags(let tags): tags.filter { $0.hasPrefix("\"") }.map { String($0.dropFirst().dropLast()) }
    }
  }
}
