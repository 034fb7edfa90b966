/// What every room knows of unix sockets.
package enum UnixSocket {
  /// Bytes that a socket's path may have (sun_path, less its end).
  package static let longestPath = 107
}
