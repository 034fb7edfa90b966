import Locks

/// What a piece of work came to, handed from the thread that did it to the one that waits.
final class Outcome<Value: Sendable>: Sendable {
  private let result = Lock<Result<Value, any Error>?>(nil)

  func set(_ work: () async throws -> Value) async {
    let outcome: Result<Value, any Error>
    do { outcome = .success(try await work()) } catch { outcome = .failure(error) }
    result.withLock { $0 = outcome }
  }

  /// - Precondition: `set` has returned.
  func value() throws -> Value {
    guard let outcome = result.withLock({ $0 }) else { preconditionFailure("the work hasn't ended") }
    return try outcome.get()
  }
}
