import Dispatch
import Locks
import Model

/// The calls of the catalog that are under way, and whether there may be new ones.
///
/// A database that is used after it was closed ends the program, so the order is: `close` lets no further call in,
/// `waitForNone` returns when those inside have ended, then the database is closed.
final class CatalogCalls: Sendable {
  enum Kind: Sendable { case read, write }

  private struct State {
    var reads = 0
    var writes = 0
    var isClosed = false
  }

  private let state = Lock(State())
  private let inside = DispatchGroup()

  /// - Throws: `stopping` once closed.
  func begin(_ kind: Kind) throws(DomainError) {
    let isIn = state.withLock { state in
      guard !state.isClosed else { return false }
      switch kind {
      case .read: state.reads += 1
      case .write: state.writes += 1
      }
      inside.enter()
      return true
    }
    guard isIn else {
      throw DomainError(.stopping, "the server is stopping: its catalog is closed", remedy: "ask again when it is up")
    }
  }

  func end(_ kind: Kind) {
    state.withLock { state in
      switch kind {
      case .read: state.reads -= 1
      case .write: state.writes -= 1
      }
    }
    inside.leave()
  }

  /// False if it was closed already.
  func close() -> Bool {
    state.withLock { state in
      defer { state.isClosed = true }
      return !state.isClosed
    }
  }

  /// Blocks.
  func waitForNone() { inside.wait() }

  /// What is under way, in words.
  var descriptions: [String] {
    let (reads, writes) = state.withLock { ($0.reads, $0.writes) }
    return [
      (reads, "look-up in the catalog", "look-ups in the catalog"),
      (writes, "change of the catalog", "changes of the catalog"),
    ]
    .filter { $0.0 > 0 }.map { "\($0.0) \($0.0 == 1 ? $0.1 : $0.2)" }
  }
}
