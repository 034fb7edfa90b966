import Model

/// The conditions under which a change is asked for.
package struct ChangeConditions<Value: Sendable>: Sendable {
  /// Only tell what would be done.
  package var dryRun: Bool
  /// The revision that the resource must still have; nil takes any.
  package var expectedRevision: Int?
  /// Makes a repeat of the request harmless.
  package var idempotency: IdempotencyGuard<Value>?
  /// Who asks.
  package var caller: Principal

  package init(
    dryRun: Bool = false, expectedRevision: Int? = nil, idempotency: IdempotencyGuard<Value>? = nil,
    caller: Principal = .anonymous
  ) {
    self.dryRun = dryRun
    self.caller = caller
    self.expectedRevision = expectedRevision
    self.idempotency = idempotency
  }
}

/// What a change came to.
package enum Answer<Value: Sendable>: Sendable {
  case done(Value)
  /// What the same request was answered before, under the same idempotency key.
  case repeated(KeptAnswer)
  /// What would be done; nothing was written.
  case planned(Plan)
}

extension Answer: Equatable where Value: Equatable {}

/// What a change would do, in words and as the resource that it would make, without the ids it would get.
package struct Plan: Hashable, Sendable {
  /// E.g. "register-image".
  package var action: String
  package var steps: [String]
  /// What the person should know before doing it.
  package var warnings: [String]
  package var resource: PlannedResource

  package init(action: String, steps: [String], warnings: [String] = [], resource: PlannedResource) {
    self.action = action
    self.steps = steps
    self.warnings = warnings
    self.resource = resource
  }
}

/// An answer in the form of the API that gave it, which alone reads it.
package struct KeptAnswer: Hashable, Sendable {
  package var text: String

  package init(_ text: String) { self.text = text }
}

/// The idempotency key of a request, and how its answer will read.
package struct IdempotencyGuard<Value: Sendable>: Sendable {
  package var key: IdempotencyKey
  package var bodyHash: String
  /// Called within the transaction of the change, so that the answer is stored with it.
  package var answer: @Sendable (Value) throws -> KeptAnswer

  package init(
    key: IdempotencyKey, bodyHash: String, answer: @Sendable @escaping (Value) throws -> KeptAnswer
  ) {
    self.key = key
    self.bodyHash = bodyHash
    self.answer = answer
  }
}
