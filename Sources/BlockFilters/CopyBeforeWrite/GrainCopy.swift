import BlockCore

/// One copying of old bytes that is under way, and what waits for it.
final class GrainCopy: @unchecked Sendable {
  // Safe to hand over: confined to the loop of its image.

  enum State {
    case running
    /// Every grain of it is kept by all points in time that need it.
    case done
    /// No point in time needs it any more. What it reads from now on may be new.
    case abandoned
    /// The changes that wait for it fail.
    case refused
  }

  /// Whole grains.
  let range: ByteRange
  private(set) var state = State.running
  /// The old bytes of a part of the range, once they are read.
  private(set) var bytes: GrainBytes?
  /// A reader's read of the source that will give it the bytes, while it is under way.
  var reader: SourceRead?
  private var waiting: [UnsafeContinuation<Void, Never>] = []

  init(_ range: ByteRange) { self.range = range }

  var isRunning: Bool { if case .running = state { true } else { false } }

  func hasRead(_ bytes: GrainBytes) {
    self.bytes = bytes
    wake()
  }

  func end(_ state: State) {
    guard isRunning else { return }
    self.state = state
    wake()
  }

  func waitForEnd() async {
    while isRunning { await wait { $0.isRunning } }
  }

  /// Waits until the reader's read has ended, or nothing is to be had from it any more.
  func waitForReader() async {
    while isRunning, reader != nil { await wait { $0.isRunning && $0.reader != nil } }
  }

  /// Waits until there are bytes, or there will be none from this copy.
  func waitForBytes() async {
    while isRunning, bytes == nil { await wait { $0.isRunning && $0.bytes == nil } }
  }

  private func wait(while isTrue: (GrainCopy) -> Bool) async {
    await withUnsafeContinuation { continuation in
      // Others may run before this closure does, where the caller isn't on an actor.
      if isTrue(self) { waiting.append(continuation) } else { continuation.resume() }
    }
  }

  /// Has all that wait look again.
  func wake() {
    let all = waiting
    waiting = []
    for waiter in all { waiter.resume() }
  }
}
