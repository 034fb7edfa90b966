import Foundation
import Locks
import Model

/// A catalog whose call number n fails.
package final class FaultyCatalog: BackupCatalog {
  package enum Effect: Sendable, CaseIterable {
    /// The body never runs.
    case beforeBody
    /// The body runs, and what it did is rolled back.
    case atCommit
    /// It is committed, but the caller is told that it failed.
    case answerLost
  }

  package struct Fault: Sendable {
    package var atCall: Int
    package var effect: Effect
    package var error: DomainError
    /// Whether every later call fails too.
    package var fromThenOn: Bool

    /// Calls count from 1 when the fault is set.
    package init(
      atCall: Int, effect: Effect = .beforeBody, fromThenOn: Bool = false,
      error: DomainError = DomainError(.storageFull, "the catalog's disk is full (an injected fault)")
    ) {
      self.atCall = atCall
      self.effect = effect
      self.fromThenOn = fromThenOn
      self.error = error
    }
  }

  private struct State {
    var writeFault: Fault?
    var readFault: Fault?
    var writes = 0
    var reads = 0
    var hits = 0

    mutating func due(_ fault: Fault?, at call: Int) -> Fault? {
      guard let fault, call == fault.atCall || fault.fromThenOn && call > fault.atCall else { return nil }
      hits += 1
      return fault
    }
  }

  private let next: any BackupCatalog
  private let state: Lock<State>

  package init(_ next: any BackupCatalog, write: Fault? = nil, read: Fault? = nil) {
    self.next = next
    state = Lock(State(writeFault: write, readFault: read))
  }

  /// Setting one starts the count of writes anew; nil ends the faults.
  package var writeFault: Fault? {
    get { state.withLock { $0.writeFault } }
    set { state.withLock { ($0.writeFault, $0.writes) = (newValue, 0) } }
  }

  /// As ``writeFault``, for reads.
  package var readFault: Fault? {
    get { state.withLock { $0.readFault } }
    set { state.withLock { ($0.readFault, $0.reads) = (newValue, 0) } }
  }

  /// Writes since the fault was set.
  package var writes: Int { state.withLock { $0.writes } }
  /// Calls that failed by a fault.
  package var hits: Int { state.withLock { $0.hits } }
  package var wasHit: Bool { hits > 0 }

  package func read<Result>(_ body: (any CatalogReading) throws -> Result) throws -> Result {
    let fault = state.withLock { state in
      state.reads += 1
      return state.due(state.readFault, at: state.reads)
    }
    if let fault { throw fault.error }
    return try next.read(body)
  }

  @discardableResult package func write<Result: Sendable>(
    _ body: @Sendable @escaping (any CatalogWriting) throws -> Result
  ) async throws -> Result {
    let fault = state.withLock { state in
      state.writes += 1
      return state.due(state.writeFault, at: state.writes)
    }
    guard let fault else { return try await next.write(body) }
    switch fault.effect {
    case .beforeBody: break
    case .atCommit:
      _ = try await next.write { transaction -> Result in
        _ = try body(transaction)
        throw fault.error
      }
    case .answerLost: _ = try await next.write(body)
    }
    throw fault.error
  }

  package func close() throws { try next.close() }

  package var unfinished: [String] { next.unfinished }
}
