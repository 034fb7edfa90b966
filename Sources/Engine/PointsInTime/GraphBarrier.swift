import Locks
import Model

/// One moment over several open images: no change of any of them is in flight, and none begins.
///
/// B1. Held → committed by the coordinator, once all are drained, or aborted by the first that can't be or by the timer:
///     one word, which is set once and read before any image is released. None is released before it is set.
/// B2. The hold is bounded. An aborted barrier has changed nothing, and may be tried again.
/// B3. Each image is released right after its own swap, which doesn't wait and can't fail.
struct GraphBarrier: Sendable {
  /// How long changes are kept back at most.
  static let bound = Duration.milliseconds(500)

  let graphs: [ImageGraph]
  var bound = Self.bound

  private enum Decision { case open, committed, aborted }

  private struct State {
    var decision = Decision.open
    var holds: [Int: GraphHold] = [:]
    var isDrained: Set<Int> = []
  }

  /// Runs `swap` for each image at the moment, on its loop.
  /// - Throws: `imageInUse`, naming an image whose changes didn't end in time, or that another moment holds.
  func run(_ swap: @Sendable @escaping (isolated ImageGraph) -> Void = { _ in }) async throws {
    let state = Lock(State())
    @Sendable func decide(_ decision: Decision) -> Bool {
      state.withLock { state in
        guard state.decision == .open else { return false }
        state.decision = decision
        return true
      }
    }
    let timer = Task(executorPreference: graphs.first?.loop) { [bound] in
      guard (try? await Task.sleep(for: bound)) != nil, decide(.aborted) else { return }
      // What waits for the drain ends by that. A hold that begins later finds the decision.
      await release(state.withLock { $0.holds })
    }
    defer { timer.cancel() }
    for (index, graph) in graphs.enumerated() {
      guard let hold = await graph.hold() else {
        _ = decide(.aborted)
        await release(state.withLock { $0.holds })
        throw DomainError(
          .imageInUse, "\(graph.name) is held for another point in time", remedy: "try again")
      }
      // The timer releases those that were there when it fired, and no others.
      let isOpen = state.withLock { state in
        state.holds[index] = hold
        return state.decision == .open
      }
      guard isOpen else {
        await release(state.withLock { $0.holds })
        throw DomainError(
          .imageInUse, "\(graph.name) couldn't be held within \(bound)", remedy: "try again when it has less to do")
      }
    }
    let holds = state.withLock { $0.holds }
    await withDiscardingTaskGroup { group in
      for (index, graph) in graphs.enumerated() {
        group.addTask(executorPreference: graph.loop) {
          guard let hold = holds[index], await graph.drain(hold) else { return }
          state.withLock { _ = $0.isDrained.insert(index) }
        }
      }
    }
    let drained = state.withLock { $0.isDrained }
    guard drained.count == graphs.count, decide(.committed) else {
      _ = decide(.aborted)
      await release(holds)
      let late = graphs.indices.first { !drained.contains($0) }.map { graphs[$0].name }
      throw DomainError(
        .imageInUse, "\(late ?? "an image") had changes in flight that didn't end within \(bound)",
        remedy: "try again when its storage answers")
    }
    await withDiscardingTaskGroup { group in
      for (index, graph) in graphs.enumerated() {
        group.addTask(executorPreference: graph.loop) { await graph.end(holds[index], after: swap) }
      }
    }
  }

  /// How often a moment is tried, and the pause that grows between two tries.
  private static let attempts = 3
  private static let pause = Duration.milliseconds(100)

  /// The same, tried again where it can't be had.
  func runPatiently(_ swap: @Sendable @escaping (isolated ImageGraph) -> Void) async throws {
    guard let first = graphs.first else { return }
    var pause = Self.pause
    for attempt in 1... {
      do {
        // On a loop: other work of the process doesn't make the guests wait.
        return try await first.loop.run { try await run(swap) }
      } catch let error as DomainError where error.code == .imageInUse && attempt < Self.attempts {
        try await Task.sleep(for: pause)
        pause *= 2
      }
    }
  }

  private func release(_ holds: [Int: GraphHold]) async {
    for (index, hold) in holds { await graphs[index].release(hold) }
  }
}

extension ImageGraph {
  fileprivate func end(_ hold: GraphHold?, after swap: @Sendable (isolated ImageGraph) -> Void) {
    swap(self)
    if let hold { release(hold) }
  }
}
