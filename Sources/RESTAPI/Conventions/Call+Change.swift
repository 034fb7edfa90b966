import Bytes
import HTTPServer
import Model
import Orchestrator

extension Call {
  /// Makes a change with all its conventions: `dryRun`, `If-Match`, `Idempotency-Key`.
  ///
  /// - Parameters:
  ///   - revision: the current revision of the resource that the path names; nil where the path is a collection, or
  ///     the resource has none.
  ///   - isMatched: the use case looks at `If-Match` by itself.
  ///   - render: the answer once it is done; also what is kept under the idempotency key.
  ///   - perform: the use case.
  func change<Value: Sendable>(
    at revision: (() throws -> Int)? = nil, isMatched: Bool = false,
    render: @escaping @Sendable (Value) throws -> StoredAnswer,
    _ perform: (ChangeConditions<Value>) async throws -> Answer<Value>
  ) async throws -> HTTPResponse {
    let dryRun = try query.boolean(.dryRun)
    // What is malformed comes before what is merely out of date.
    let idempotency = try idempotencyKey().map { key in
      IdempotencyGuard<Value>(key: key, bodyHash: Digest(of: body.span.bytes).description) { try render($0).kept }
    }
    let conditions = ChangeConditions<Value>(
      dryRun: dryRun, expectedRevision: isMatched ? nil : try expectedRevision(revision), idempotency: idempotency,
      caller: caller)
    switch try await perform(conditions) {
    case .done(let value):
      return try render(value).response
    case .repeated(let answer):
      var response = try StoredAnswer(answer).response
      response.headers["Idempotency-Replayed"] = "true"
      return response
    case .planned(let plan):
      return HTTPResponse(
        status: 200, headers: ["Content-Type": JSONAnswer.contentType],
        content: .bytes(JSONWriter.text(of: PlanDocument(plan: plan))))
    }
  }

  /// The revision that `If-Match` asks for; nil if any will do.
  ///
  /// Of several tags the current one counts. The use case checks it, within the change and after it has looked for a
  /// repeat of the request: nothing is refused here that was done already.
  private func expectedRevision(_ current: (() throws -> Int)?) throws -> Int? {
    switch try EntityTagList(request.headers.values("If-Match"), header: "If-Match") {
    case nil, .any: return nil
    case .tags(let tags):
      guard let current else {
        throw DomainError(
          .preconditionFailed, "nothing here has a revision that 'If-Match' could name", remedy: "leave 'If-Match' out")
      }
      let named = EntityTagList.tags(tags).revisions
      if let revision = try? current(), named.contains(revision) { return revision }
      return named.first ?? Self.noRevision
    }
  }

  /// What no resource has: they count from 1.
  private static let noRevision = 0

  /// The key of a POST, if it has one.
  private func idempotencyKey() throws(DomainError) -> IdempotencyKey? {
    guard match.route.method == .post else { return nil }
    let values = request.headers.values("Idempotency-Key")
    guard let value = values.first else { return nil }
    guard values.count == 1, (1...Self.longestIdempotencyKey).contains(value.utf8.count),
      value.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F })
    else {
      throw DomainError(
        .malformedRequest,
        "'Idempotency-Key' must stand once and have 1 to \(Self.longestIdempotencyKey) visible ASCII characters")
    }
    return IdempotencyKey(who: caller.name, route: "\(request.method) \(match.path.canonical)", key: value)
  }

  static let longestIdempotencyKey = 255
}
