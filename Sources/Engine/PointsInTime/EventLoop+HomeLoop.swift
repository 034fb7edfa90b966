import BlockCore
import EventLoops

extension EventLoop: HomeLoop {
  package var now: ContinuousClock.Instant { ContinuousClock.now }

  package func start(_ work: nonisolated(nonsending) @Sendable @escaping () async -> Void) {
    Task(executorPreference: self) { await work() }
  }

  nonisolated(nonsending)
    package func offload(_ work: @Sendable @escaping () -> Void) async
  { await blocking { work() } }

  package func after(_ delay: Duration, _ action: @Sendable @escaping () -> Void) {
    Task(executorPreference: self) {
      // A loop that ends takes with it what would be told.
      guard (try? await self.sleep(for: max(delay, .zero))) != nil else { return }
      action()
    }
  }
}
