import Locks
import Model

/// The idempotency keys whose requests are being worked on. Bounded by the requests that the server takes at a time.
final class KeysInFlight: Sendable {
  private let hashes = Lock<[IdempotencyKey: String]>([:])

  /// Throws `idempotencyKeyInFlight` while the same request is worked on, `idempotencyKeyReused` while another one
  /// is under this key.
  func begin(_ key: IdempotencyKey, bodyHash: String) throws(DomainError) {
    let other = hashes.withLock { hashes -> String? in
      if let other = hashes[key] { return other }
      hashes[key] = bodyHash
      return nil
    }
    guard let other else { return }
    guard other == bodyHash else { throw Self.reused(key) }
    throw DomainError(
      .idempotencyKeyInFlight, "a request with the idempotency key '\(key.key)' is still being worked on",
      remedy: "send it again a little later")
  }

  func end(_ key: IdempotencyKey) { hashes.withLock { $0[key] = nil } }

  static func reused(_ key: IdempotencyKey) -> DomainError {
    DomainError(
      .idempotencyKeyReused, "the idempotency key '\(key.key)' was used with another body",
      remedy: "take a new key for a new request")
  }
}
