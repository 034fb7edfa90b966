import HTTPServer
import Model

/// All routes, found by path and method.
struct Router: Sendable {
  let routes: [Route]
  private let byLength: [Int: [Route]]

  init(_ routes: [Route]) {
    self.routes = routes
    byLength = Dictionary(grouping: routes) { $0.segments.count }
  }

  /// What a path and method lead to.
  struct Match {
    let route: Route
    /// The values of the path's parameters, in order; empty for one that may be, and is, no UTF-8.
    let parameters: [String]
    /// The same as bytes.
    let bytes: [[UInt8]]
    let path: RawPath
    /// The request is HEAD: as GET, but the content isn't sent.
    let isHead: Bool
  }

  enum Miss: Error {
    case fault(DomainError)
    /// The path has routes, but none for this method.
    case method(allowed: [String])
  }

  func match(method: String, path: String) throws(Miss) -> Match {
    let rawPath: RawPath
    do {
      rawPath = try RawPath(path)
    } catch {
      throw .fault(error)
    }
    let isHead = method == "HEAD"
    var allowed: [String] = []
    for route in byLength[rawPath.segments.count] ?? [] {
      guard let values = route.match(rawPath.segments) else { continue }
      if route.method.rawValue == (isHead ? Route.Method.get.rawValue : method) {
        guard zip(route.segments, rawPath.segments).allSatisfy({ $0.takesBytes || $1.text != nil }) else {
          throw .fault(RawPath.notText)
        }
        return Match(
          route: route, parameters: values.map { $0.text ?? "" }, bytes: values.map(\.bytes), path: rawPath,
          isHead: isHead)
      }
      allowed += route.method == .get ? ["GET", "HEAD"] : [route.method.rawValue]
    }
    guard rawPath.segments.allSatisfy({ $0.text != nil }) || !allowed.isEmpty else { throw .fault(RawPath.notText) }
    guard !allowed.isEmpty else { throw .fault(DomainError(.notFound, "nothing is at '\(path)'")) }
    throw .method(allowed: allowed)
  }
}
