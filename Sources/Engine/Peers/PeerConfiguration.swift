/// Which NBD servers images may be on, or may be restored to, and how those with TLS are met.
package struct PeerConfiguration: Hashable, Sendable {
  package enum TLS: Hashable, Sendable {
    /// Paths of PEM files: the authority that must have signed the peers' certificates (nil: one of the system's
    /// authorities), and what we show to those that ask.
    case certificate(authority: String?, certificate: String?, key: String?)
    /// The path of a file with one line `identity:hex`, as psktool writes it.
    case preSharedKey(file: String)
  }

  /// Each `HOST` (any port), `HOST:PORT` or `unix:PATH`; IPv6 addresses in brackets, paths absolute.
  package var allowed: [String]
  /// For `nbds` URIs; without it they are refused.
  package var tls: TLS?

  package init(allowed: [String] = [], tls: TLS? = nil) {
    self.allowed = allowed
    self.tls = tls
  }
}
