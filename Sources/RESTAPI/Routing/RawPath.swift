import Bytes
import HTTPServer
import Model

/// The path of a request as sent, split at `/` first; only then each segment is decoded, once. So `%2F` stays inside
/// its segment and `%25` never decodes twice.
struct RawPath {
  /// Longer paths than this have no resource behind them.
  static let maximumSegmentCount = 16

  /// Decoded. Empty for `/`.
  let segments: [String]

  /// - Throws: `malformedRequest` for a broken escape, a NUL or invalid UTF-8; `notFound` for an empty segment (also
  ///   one that a trailing slash makes).
  init(_ path: String) throws(DomainError) {
    guard path.utf8.first == UInt8(ascii: "/") else {
      throw DomainError(.notFound, "nothing is at '\(path)'")
    }
    if path.utf8.count == 1 {
      segments = []
      return
    }
    let parts = path.utf8.dropFirst().split(
      separator: UInt8(ascii: "/"), maxSplits: Self.maximumSegmentCount, omittingEmptySubsequences: false)
    var segments: [String] = []
    for part in parts {
      segments.append(try Self.decoded(Substring(part)))
    }
    guard parts.count <= Self.maximumSegmentCount, !segments.contains("") else {
      throw DomainError(.notFound, "nothing is at '\(path)': a path has no empty segment and doesn't end with '/'")
    }
    self.segments = segments
  }

  private static func decoded(_ part: Substring) throws(DomainError) -> String {
    guard let bytes = PercentEncoding.decode(part) else {
      throw DomainError(.malformedRequest, "the path has a '%' that two hexadecimal digits don't follow")
    }
    guard !bytes.contains(0) else { throw DomainError(.malformedRequest, "the path holds a NUL ('%00')") }
    guard let text = String(validating: bytes, as: UTF8.self) else {
      throw DomainError(.malformedRequest, "the path isn't valid UTF-8 when decoded")
    }
    return text
  }

  /// One text for all ways of encoding this path.
  var canonical: String {
    segments.map { "/" + PercentEncoding.encode(segment: $0) }.joined()
  }
}

/// The paths that the API hands out itself.
enum APIPath {
  static let root = "/api/v1"

  static func image(_ id: ImageID) -> String { "\(root)/images/\(id)" }
  static func repository(_ id: RepositoryID) -> String { "\(root)/repositories/\(id)" }
  static func export(_ id: ExportID) -> String { "\(root)/exports/\(id)" }
  static func job(_ id: JobID) -> String { "\(root)/jobs/\(id)" }
}
