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
    /// The values of the path's parameters, in order.
    let parameters: [String]
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
      guard let parameters = route.match(rawPath.segments) else { continue }
      if route.method.rawValue == (isHead ? Route.Method.get.rawValue : method) {
        return Match(route: route, parameters: parameters, path: rawPath, isHead: isHead)
      }
      allowed += route.method == .get ? ["GET", "HEAD"] : [route.method.rawValue]
    }
    guard !allowed.isEmpty else { throw .fault(DomainError(.notFound, "nothing is at '\(path)'")) }
    throw .method(allowed: allowed)
  }
}
