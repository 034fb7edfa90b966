import Bytes
import HTTPServer
import Locks
import Model

/// The names that this server answers to. A request that carries another one was led here by another site's name
/// server (DNS rebinding); one from a page of another origin rides on the person's position, not on their will.
package final class HostList: Sendable {
  /// Configured: with our port, or with none as behind a proxy.
  private let names: Set<String>
  private let ports: Lock<Set<UInt16>>

  private static let loopbackNames: Set<String> = ["localhost", "127.0.0.1", "[::1]"]

  /// - Parameter names: more host names than the loopback ones, without ports.
  package init(names: [String] = []) {
    self.names = Set(names.map { NetworkHost($0)?.description ?? $0.lowercased() })
    ports = Lock([])
  }

  /// Tells that the server listens on this port from now on.
  package func add(port: UInt16) {
    _ = ports.withLock { $0.insert(port) }
  }

  /// - Throws: `misdirectedRequest`, `foreignOrigin`, and `malformedRequest` for two `Host`s.
  func check(_ request: HTTPRequest) throws(DomainError) {
    let hosts = request.headers.values("Host")
    guard hosts.count <= 1 else { throw DomainError(.malformedRequest, "the request has more than one 'Host'") }
    guard accepts(host: hosts.first, request) else {
      throw DomainError(.misdirectedRequest, "this server doesn't answer for the host '\(hosts.first ?? "")'")
    }
    if let site = request.headers["Sec-Fetch-Site"], site != "same-origin", site != "none" {
      throw DomainError(
        .foreignOrigin, "a browser says that the request comes from elsewhere (Sec-Fetch-Site: \(site))")
    }
    for origin in request.headers.values("Origin") where !isOwn(origin: origin, host: hosts.first, request) {
      throw DomainError(.foreignOrigin, "a page of '\(origin)' made this request")
    }
  }

  private func accepts(host: String?, _ request: HTTPRequest) -> Bool {
    // No browser is led to a unix socket by a name.
    if request.peer == .unixSocket { return true }
    guard let host, let named = HostAndPort(host) else { return false }
    let (name, port) = (named.host.description, named.port)
    let isOurPort = ports.withLock { $0.contains(port ?? (request.isSecure ? 443 : 80)) }
    if Self.loopbackNames.contains(name) { return isOurPort }
    return names.contains(name) && (isOurPort || port == nil)
  }

  /// An origin is ours if the page came from the very host that the request names.
  private func isOwn(origin: String, host: String?, _ request: HTTPRequest) -> Bool {
    guard let host, let scheme = ["http://", "https://"].first(where: { origin.lowercased().hasPrefix($0) }) else {
      return false
    }
    guard origin.dropFirst(scheme.count).lowercased() == host.lowercased() else { return false }
    // Behind a proxy the page may have come encrypted though this connection isn't.
    let isBehindProxy = HostAndPort(host).map { names.contains($0.host.description) } ?? false
    return isBehindProxy || (scheme == "https://") == request.isSecure
  }
}
