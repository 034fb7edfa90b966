import BlockCore
import Bytes
import EventLoops
import Failures
import Foundation
import Model
import NBD

/// Other NBD servers, as far as the configuration lets them be reached.
struct NBDPeers: Sendable {
  private let allowed: AllowedPeers
  private let credentials: TLSClientCredentials?

  /// What an export is opened for.
  enum Use {
    /// A short look, for which a person waits: over one connection.
    case look
    /// A copy of all of it: over ``connectionCount`` connections where the server allows several.
    case copy
  }

  private static let connectionCount = 4
  /// How long a silent or vanished server is waited for where a person waits.
  private static let lookTimeout = Duration.seconds(30)

  /// Loads what TLS needs; blocks.
  /// - Throws: `tlsUnavailable`, with the file that can't be used.
  init(_ configuration: PeerConfiguration) throws(DomainError) {
    allowed = AllowedPeers(configuration.allowed)
    credentials = try configuration.tls.map { (tls) throws(DomainError) in try Self.credentials(tls) }
  }

  private static func credentials(_ tls: PeerConfiguration.TLS) throws(DomainError) -> TLSClientCredentials {
    do {
      switch tls {
      case .certificate(let authority, let certificate, let key):
        return try TLSClientCredentials(authorityFile: authority, certificateFile: certificate, keyFile: key)
      case .preSharedKey(let file):
        let text = try String(contentsOfFile: file, encoding: .utf8).trimmingCharacters(in: .whitespacesAndNewlines)
        let parts = text.split(separator: ":")
        guard parts.count == 2, !text.contains(where: \.isNewline) else {
          throw DomainError(.tlsUnavailable, "\(file) doesn't hold one line identity:hex")
        }
        return try TLSClientCredentials(preSharedKeyIdentity: String(parts[0]), hexKey: String(parts[1]))
      }
    } catch let error as DomainError {
      throw error
    } catch {
      throw DomainError(
        .tlsUnavailable, "what TLS to other NBD servers needs can't be loaded: \(error)",
        remedy: "check the files under peerTLS in the configuration")
    }
  }

  /// Connects to the export that the URI names; its home is `loop`.
  /// - Parameters:
  ///   - isReadOnly: whether changes are refused; a writer finds out by the device whether the server takes any.
  /// - Throws: `invalidField` for what is no NBD URI, `peerNotAllowed`, `tlsUnavailable`, `peerUnreachable`.
  nonisolated(nonsending)
    func open(
      _ text: String, isReadOnly: Bool, for use: Use, on loop: EventLoop
    ) async throws -> NBDDevice
  {
    let uri: NBDURI
    do throws(NBDURI.ParsingError) { uri = try NBDURI(text) } catch { throw DomainError(.invalidField, "\(error)") }
    let resolved = try await loop.blocking(about: text) { [allowed] in try allowed.resolve(uri) }
    guard !uri.usesTLS || credentials != nil else {
      throw DomainError(
        .tlsUnavailable, "\(text) needs TLS, and nothing is configured for it",
        remedy: "state peerTLS in the configuration")
    }
    var options = NBDDevice.Options()
    options.isReadOnly = isReadOnly
    switch use {
    case .look: (options.answerTimeout, options.reconnectTimeout) = (Self.lookTimeout, Self.lookTimeout)
    case .copy: options.connectionCount = Self.connectionCount
    }
    options.contexts = ["base:allocation", "qemu:allocation-depth"]
    options.credentials = credentials
    do throws(BlockError) {
      return try await NBDDevice.open(resolved, options, on: loop)
    } catch {
      throw DomainError(
        .peerUnreachable, "\(text) can't be used: \(error.cause ?? "\(error.kind)")",
        remedy: "check that the NBD server runs, that it has this export, and that the URI is right")
    }
  }
}
