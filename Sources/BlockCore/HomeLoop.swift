/// What a device asks of the loop that it is confined to, where being called there isn't enough.
package protocol HomeLoop: Sendable {
  /// A clock that never goes back.
  var now: ContinuousClock.Instant { get }

  /// Begins work on the loop that the caller doesn't wait for.
  func start(_ work: @Sendable @escaping () async -> Void)

  /// Runs work that would keep the loop from others, beside it.
  func offload(_ work: @Sendable @escaping () -> Void) async

  /// Has `action` called on the loop, once, when so much time has passed.
  func after(_ delay: Duration, _ action: @Sendable @escaping () -> Void)
}
