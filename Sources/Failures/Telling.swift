import BlockCore
import EventLoops
import Model

/// Runs `body`; what it throws comes out as a `DomainError` about `file`, but a cancellation as itself.
nonisolated(nonsending)
  package func telling<Result>(
    about file: String, damage: ProblemCode = .imageCorrupt, _ body: () async throws -> Result
  ) async throws -> Result
{
  do {
    return try await body()
  } catch is CancellationError {
    throw CancellationError()
  } catch {
    throw DomainError(any: error, of: file, damage: damage)
  }
}

/// Runs `body`, and `cleanUp` if it throws; the error goes on.
nonisolated(nonsending)
  package func attempt<Value>(
    _ body: () async throws -> Value, orCleanUp cleanUp: () async -> Void
  ) async throws -> Value
{
  let result: Result<Value, any Error>
  do { result = .success(try await body()) } catch { result = .failure(error) }
  if case .failure = result { await cleanUp() }
  return try result.get()
}

/// Runs `body` and closes the devices after it, whatever came of it. What closing them says doesn't matter here: what
/// must last was flushed, or closed by `body` itself.
nonisolated(nonsending)
  package func closing<Value>(_ devices: [any BlockDevice], _ body: () async throws -> Value) async throws -> Value
{
  let result: Result<Value, any Error>
  do { result = .success(try await body()) } catch { result = .failure(error) }
  for device in devices { try? await device.close() }
  return try result.get()
}

extension EventLoop {
  /// Runs blocking `work` off the loop; what it throws comes out as a `DomainError` about `file`.
  nonisolated(nonsending)
    package func blocking<Value: Sendable>(
      about file: String, in lane: BlockingLane = .current, _ work: @Sendable @escaping () throws -> Value
    ) async throws -> Value
  {
    try await blocking(in: lane) { () -> Result<Value, DomainError> in
      do { return .success(try work()) } catch { return .failure(DomainError(any: error, of: file)) }
    }.get()
  }
}
