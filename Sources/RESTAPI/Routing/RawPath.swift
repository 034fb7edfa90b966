import Bytes
import HTTPServer
import Model

/// The path of a request as sent, split at `/` first; only then each segment is decoded, once. So `%2F` stays inside
/// its segment and `%25` never decodes twice.
struct RawPath {
  /// Longer paths than this have no resource behind them.
  static let maximumSegmentCount = 16

  /// A part of the path, decoded.
  struct Segment: Equatable {
    let bytes: [UInt8]
    /// Nil unless it is UTF-8.
    let text: String?
  }

  /// Empty for `/`.
  let segments: [Segment]

  /// - Throws: `malformedRequest` for a broken escape or a NUL; `notFound` for an empty segment (also one that a trailing
  ///   slash makes).
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
    var segments: [Segment] = []
    for part in parts {
      segments.append(try Self.decoded(Substring(part)))
    }
    guard parts.count <= Self.maximumSegmentCount, !segments.contains(where: { $0.bytes.isEmpty }) else {
      throw DomainError(.notFound, "nothing is at '\(path)': a path has no empty segment and doesn't end with '/'")
    }
    self.segments = segments
  }

  private static func decoded(_ part: Substring) throws(DomainError) -> Segment {
    guard let bytes = PercentEncoding.decode(part) else {
      throw DomainError(.malformedRequest, "the path has a '%' that two hexadecimal digits don't follow")
    }
    guard !bytes.contains(0) else { throw DomainError(.malformedRequest, "the path holds a NUL ('%00')") }
    return Segment(bytes: bytes, text: String(validating: bytes, as: UTF8.self))
  }

  /// What is said of a path that isn't UTF-8 where it must be.
  static let notText = DomainError(.malformedRequest, "the path isn't valid UTF-8 when decoded")

  /// One text for all ways of encoding this path.
  var canonical: String {
    segments.map { "/" + PercentEncoding.encode(bytes: $0.bytes) }.joined()
  }
}

/// The paths that the API hands out itself.
enum APIPath {
  static let root = "/api/v1"

  static func image(_ id: ImageID) -> String { "\(root)/images/\(id)" }
  static func bitmap(_ name: BitmapName, of image: ImageID) -> String {
    "\(self.image(image))/bitmaps/\(name.percentEncoded)"
  }

  static func repository(_ id: RepositoryID) -> String { "\(root)/repositories/\(id)" }
  static func export(_ id: ExportID) -> String { "\(root)/exports/\(id)" }
  static func fleecing(_ id: FleecingID) -> String { "\(root)/fleecings/\(id)" }
  static func job(_ id: JobID) -> String { "\(root)/jobs/\(id)" }
}
