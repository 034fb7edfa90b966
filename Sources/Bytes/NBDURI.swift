/// Where an export is, as people write it (the NBD URI specification, uri.md beside proto.md).
///
///     nbd://HOST[:PORT][/EXPORT]             nbds:// the same with TLS
///     nbd+unix:///[EXPORT]?socket=PATH       nbds+unix:/// the same with TLS
///
/// Export and path are percent-decoded; everything else that a URI might have is refused, so that a typing error
/// never reaches a different export than was meant.
package struct NBDURI: Hashable, Sendable {
  package enum Place: Hashable, Sendable {
    /// A name or a numeric address, without brackets.
    case tcp(host: String, port: UInt16)
    case unix(path: String)
  }

  package struct ParsingError: Error, Hashable, Sendable, CustomStringConvertible {
    package let uri: String
    package let reason: String
    package var description: String { "“\(uri)” is not an NBD URI that can be used: \(reason)" }
  }

  /// IANA's port for NBD.
  package static let standardPort: UInt16 = 10809

  /// Bytes of an export's name (the NBD protocol's limit for strings).
  package static let longestName = 4096

  private enum Scheme: String, CaseIterable {
    case nbd, nbds
    case nbdUnix = "nbd+unix"
    case nbdsUnix = "nbds+unix"

    var usesTLS: Bool { self == .nbds || self == .nbdsUnix }
    var isUnix: Bool { self == .nbdUnix || self == .nbdsUnix }
  }

  package static let schemes = Scheme.allCases.map(\.rawValue)

  /// Whether the text may be such a URI: it begins with one of the schemes.
  package static func hasScheme(_ text: String) -> Bool { split(text) != nil }

  private static func split(_ text: String) -> (scheme: Scheme, rest: Substring)? {
    guard let separator = text.firstRange(of: "://"),
      let scheme = Scheme(rawValue: text[..<separator.lowerBound].lowercased())
    else { return nil }
    return (scheme, text[separator.upperBound...])
  }

  package let place: Place
  /// Empty for the server's default export.
  package let exportName: String
  package let usesTLS: Bool

  package init(_ place: Place, exportName: String, usesTLS: Bool = false) {
    self.place = place
    self.exportName = exportName
    self.usesTLS = usesTLS
  }

  package init(_ text: String) throws(ParsingError) {
    func refuse(_ reason: String) -> ParsingError { ParsingError(uri: text, reason: reason) }
    guard let (scheme, rest) = Self.split(text) else {
      throw refuse("it must start with one of \(Self.schemes.map { "\($0)://" }.joined(separator: ", "))")
    }
    usesTLS = scheme.usesTLS
    if rest.contains("#") { throw refuse("a fragment (#…) has no meaning here") }
    let parts = rest.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
    let slash = parts[0].firstIndex(of: "/")
    let authority = parts[0][..<(slash ?? parts[0].endIndex)]
    let path = slash.map { parts[0][parts[0].index(after: $0)...] } ?? ""
    guard let name = PercentEncoding.decodedText(path), name.utf8.count <= Self.longestName else {
      throw refuse("the export's name is not valid")
    }
    exportName = name
    let query = parts.count > 1 ? parts[1] : nil
    if scheme.isUnix {
      guard authority.isEmpty else { throw refuse("“\(scheme.rawValue)://” is followed by a third “/”, and no host") }
      guard let query, query.hasPrefix("socket="), !query.contains("&"),
        let path = PercentEncoding.decodedText(query.dropFirst(7)), !path.isEmpty
      else { throw refuse("it needs “?socket=PATH”, and nothing else") }
      guard path.hasPrefix("/"), path.utf8.count <= UnixSocket.longestPath else {
        throw refuse("the socket's path must be absolute, with at most \(UnixSocket.longestPath) bytes")
      }
      place = .unix(path: path)
    } else {
      guard query == nil else { throw refuse("nothing may be asked with “?” over TCP") }
      guard let place = Self.tcpPlace(authority) else { throw refuse("it needs HOST or HOST:PORT") }
      self.place = place
    }
  }

  private static func tcpPlace(_ authority: Substring) -> Place? {
    guard let parsed = HostAndPort(authority), parsed.port != 0 else { return nil }
    return .tcp(host: parsed.host.text, port: parsed.port ?? standardPort)
  }
}

extension NBDURI: CustomStringConvertible {
  package var description: String {
    let scheme = usesTLS ? "nbds" : "nbd"
    let name = PercentEncoding.encode(path: exportName)
    switch place {
    case .tcp(let host, let port):
      return "\(scheme)://\(HostAndPort.text(host: host, port: port))/\(name)"
    case .unix(let path): return "\(scheme)+unix:///\(name)?socket=\(PercentEncoding.encode(path: path))"
    }
  }
}
