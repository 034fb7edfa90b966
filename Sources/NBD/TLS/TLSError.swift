import CGnuTLS

/// TLS that didn't come up or broke: what GnuTLS says, and about what.
package struct TLSError: Error, Hashable, Sendable, CustomStringConvertible {
  package let description: String

  init(_ text: String) { description = text }

  /// - Parameter subject: what was being done, e.g. the file that was loaded.
  init(_ code: Int32, _ subject: String) {
    description = "\(subject): \(String(cString: gnutls_strerror(code)))"
  }

  static func check(_ code: Int32, _ subject: String) throws(TLSError) {
    if code < 0 { throw TLSError(code, subject) }
  }
}
