/// What resumes a task that waits for the kernel: a byte count or another result, or a negative errno.
typealias Completion = UnsafeContinuation<Int32, Never>

/// Names one cancellable wait. A slot's generation rises at each use, so a late cancellation or completion of an
/// earlier wait meets nothing.
struct WaitToken: Hashable, Sendable {
  let index: UInt32
  let generation: UInt32
}

/// The cancellable waits of one loop (sockets, timers): slots that are used again and again.
struct WaitTable {
  private enum State {
    case free
    /// Taken, not yet begun.
    case reserved
    /// Cancelled before it began.
    case cancelled
    case waiting(Completion)
  }

  /// What must be told of a cancellation: the loop's timers, or the kernel.
  enum Kind { case timer, socket }

  private struct Slot {
    var generation: UInt32 = 0
    var kind = Kind.timer
    var state = State.free
  }

  private var slots: [Slot] = []
  private var freeIndices: [UInt32] = []

  mutating func reserve(_ kind: Kind) -> WaitToken {
    let index = freeIndices.popLast() ?? UInt32(slots.count)
    if Int(index) == slots.count { slots.append(Slot()) }
    slots[Int(index)].state = .reserved
    slots[Int(index)].kind = kind
    return WaitToken(index: index, generation: slots[Int(index)].generation)
  }

  /// Puts the wait's continuation in place. False, and the slot is free again, if it was cancelled before.
  mutating func begin(_ token: WaitToken, _ completion: Completion) -> Bool {
    if case .cancelled = slots[Int(token.index)].state {
      free(token.index)
      return false
    }
    slots[Int(token.index)].state = .waiting(completion)
    return true
  }

  /// Ends the wait: its continuation, or nil if that token's time is over.
  mutating func end(_ token: WaitToken) -> Completion? {
    guard isCurrent(token), case .waiting(let completion) = slots[Int(token.index)].state else { return nil }
    free(token.index)
    return completion
  }

  /// The wait's kind if it is under way, so that the waiting task is told; one that hasn't begun is marked.
  mutating func cancel(_ token: WaitToken) -> Kind? {
    guard isCurrent(token) else { return nil }
    switch slots[Int(token.index)].state {
    case .waiting: return slots[Int(token.index)].kind
    case .reserved:
      slots[Int(token.index)].state = .cancelled
      return nil
    case .free, .cancelled: return nil
    }
  }

  func isWaiting(_ token: WaitToken) -> Bool {
    guard isCurrent(token), case .waiting = slots[Int(token.index)].state else { return false }
    return true
  }

  /// Every wait that was reserved or has begun.
  var tokens: [WaitToken] {
    slots.indices.compactMap { index in
      if case .free = slots[index].state { return nil }
      return WaitToken(index: UInt32(index), generation: slots[index].generation)
    }
  }

  private func isCurrent(_ token: WaitToken) -> Bool { slots[Int(token.index)].generation == token.generation }

  private mutating func free(_ index: UInt32) {
    slots[Int(index)].state = .free
    slots[Int(index)].generation &+= 1
    freeIndices.append(index)
  }
}
