import Locks

/// The memory that old bytes of all images may take, and how it is divided: each image may take an equal share.
///
/// An image that comes makes the shares of the others smaller. One above its share gets nothing more until it is below.
package final class FleecingMemory: Sendable {
  private struct State {
    var usedByteCount = 0
    var shareCount = 0
  }

  private let limitByteCount: Int
  private let state = Lock(State())

  package init(limitByteCount: Int) { self.limitByteCount = limitByteCount }

  package var usedByteCount: Int { state.withLock { $0.usedByteCount } }

  /// One image's part of it, for as long as it lives. Confined to the image's loop.
  package func share() -> Share { Share(of: self) }

  package final class Share {
    private let whole: FleecingMemory
    package private(set) var usedByteCount = 0
    package private(set) var highWaterByteCount = 0

    fileprivate init(of whole: FleecingMemory) {
      self.whole = whole
      whole.state.withLock { $0.shareCount += 1 }
    }

    deinit {
      whole.state.withLock { [usedByteCount] state in
        state.shareCount -= 1
        state.usedByteCount -= usedByteCount
      }
    }

    /// What the image may take as things are now.
    package var limitByteCount: Int { whole.state.withLock { whole.limitByteCount / $0.shareCount } }

    /// False, with nothing taken, if it would be too much.
    func take(_ byteCount: Int) -> Bool {
      let limit = whole.limitByteCount
      let taken = whole.state.withLock { [usedByteCount] state in
        guard usedByteCount + byteCount <= limit / state.shareCount, state.usedByteCount + byteCount <= limit
        else { return false }
        state.usedByteCount += byteCount
        return true
      }
      guard taken else { return false }
      usedByteCount += byteCount
      highWaterByteCount = max(highWaterByteCount, usedByteCount)
      return true
    }

    func giveBack(_ byteCount: Int) {
      usedByteCount -= byteCount
      whole.state.withLock { $0.usedByteCount -= byteCount }
    }
  }
}
