import Synchronization

/// Runs `work` and waits for its end until `deadline`. False if it goes on then, which it does by itself.
package func finishes(
  by deadline: ContinuousClock.Instant, _ work: @concurrent @Sendable @escaping () async -> Void
) async -> Bool {
  let answer = FirstAnswer()
  let timer = Task.detached {
    try? await Task.sleep(until: deadline, clock: .continuous)
    answer.give(false)
  }
  Task.detached {
    await work()
    answer.give(true)
  }
  let isDone = await answer.value
  timer.cancel()
  return isDone
}

/// The first of several answers.
private final class FirstAnswer: Sendable {
  private let isGiven = Atomic<Bool>(false)
  private let stream = AsyncStream<Bool>.makeStream()

  func give(_ answer: Bool) {
    guard !isGiven.exchange(true, ordering: .acquiringAndReleasing) else { return }
    stream.continuation.yield(answer)
    stream.continuation.finish()
  }

  var value: Bool {
    get async {
      for await answer in stream.stream { return answer }
      return false
    }
  }
}
