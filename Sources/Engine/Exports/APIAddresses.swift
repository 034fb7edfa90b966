import Glibc
import Model

/// The addresses of the API. An export at one of them would keep the API from listening at the next start, as exports
/// are served before it.
struct APIAddresses: Sendable {
  let addresses: [ExportAddress]

  private static let everyHost: Set<String> = ["0.0.0.0", "::"]

  /// - Parameter address: canonical; a unix socket's path is without links.
  /// - Throws: `addressUnavailable`.
  func refuse(_ address: ExportAddress) throws(DomainError) {
    guard let own = addresses.first(where: { Self.meet($0, address) }) else { return }
    throw DomainError(
      .addressUnavailable, "the API itself is served at \(own.text)", remedy: "choose another address for the export")
  }

  private static func meet(_ own: ExportAddress, _ other: ExportAddress) -> Bool {
    switch (own, other) {
    case (.unix(let own), .unix(let other)): return realPath(own) == other
    case (.tcp(let own, let ownPort), .tcp(let other, let otherPort)):
      guard ownPort == otherPort, ownPort != 0 else { return false }
      return own == other || everyHost.contains(own) || everyHost.contains(other)
    default: return false
    }
  }

  /// The path with its folder's links resolved; the socket itself needn't be there yet.
  private static func realPath(_ path: String) -> String {
    guard let slash = path.lastIndex(of: "/"), let real = realpath(String(path[...slash]), nil) else { return path }
    defer { free(real) }
    return "\(String(cString: real))/\(path[path.index(after: slash)...])"
  }
}
