import BlockCore

/// A permanent place in the graph of an open image: exports and jobs hold the slot, and what stands behind it may change
/// under them, e.g. when a filter slides in.
///
/// **Points in time.** ``hold()`` stops changes before they begin, ``drain()`` waits for those that have begun, and
/// ``release()`` lets the held ones go. Reads and flushes pass a hold. Long zeroes and discards pass in pieces, so that a
/// drain waits for one piece of them; a write is no longer than its device takes at once.
package final class Slot: BlockFilter, @unchecked Sendable {
  // Safe to hand over: confined to its loop, like every device.

  /// The longest piece of a zeroing or a discard: what a slow device still writes in some tens of milliseconds, and so
  /// much that the calls for the pieces of a whole disk cost next to nothing.
  package static let pieceByteCount: UInt64 = 16 << 20

  /// What requests go to that begin from now on; those in flight end where they began. Another one must have the same
  /// size and alignment.
  // Checked by confinement: the check at run time would take longer than all the rest of a call here.
  @exclusivity(unchecked) package var next: any BlockDevice
  /// Grows when a change begins, and again when it has ended: while two looks at it differ, what was learnt between
  /// them may be of no one moment.
  package private(set) var changeCount: UInt64 = 0

  private var isHeld = false
  private var inFlightCount = 0
  private var held: [UnsafeContinuation<Void, Never>] = []
  private var drain: [UnsafeContinuation<Void, Never>] = []

  package init(_ next: any BlockDevice) { self.next = next }

  package func change(
    _ kind: BlockChange, _ range: ByteRange,
    _ perform: (ByteRange) async throws(BlockError) -> Void
  ) async throws(BlockError) {
    guard splits(kind, range) else { return try await changePiece(range, perform) }
    var position = range.offset
    while position < range.end {
      // Pieces end where clusters end: only whole ones can be given back.
      let piece = ByteRange(position..<min(range.end, (position / Self.pieceByteCount + 1) * Self.pieceByteCount))
      try await changePiece(piece, perform)
      position = piece.end
    }
  }

  /// A zeroing that must be fast or not be at all is one call: half of it would have happened.
  private func splits(_ kind: BlockChange, _ range: ByteRange) -> Bool {
    guard range.length > Self.pieceByteCount else { return false }
    switch kind {
    case .discard: return true
    case .writeZeroes(let options): return !options.contains(.onlyIfFast)
    case .write, .resize: return false
    }
  }

  private func changePiece(
    _ piece: ByteRange, _ perform: (ByteRange) async throws(BlockError) -> Void
  ) async throws(BlockError) {
    while isHeld { await waitForRelease() }
    begin()
    defer { end() }
    try await perform(piece)
  }

  package func tryBegin(_ kind: BlockChange, _ range: ByteRange) -> Bool {
    if isHeld || splits(kind, range) { return false }
    begin()
    return true
  }

  package func ended(_ kind: BlockChange, _ range: ByteRange) { end() }

  private func begin() {
    inFlightCount += 1
    changeCount &+= 1
  }

  private func end() {
    changeCount &+= 1
    inFlightCount -= 1
    if inFlightCount == 0 { resume(&drain) }
  }

  // MARK: Points in time

  /// From now on no change begins. Idempotent.
  package func hold() { isHeld = true }

  /// Waits until no change is in flight.
  /// - Returns: false if the hold was released before that. The caller's timer bounds the wait, by releasing it.
  package func drain() async -> Bool {
    while isHeld, inFlightCount > 0 {
      await withUnsafeContinuation { continuation in
        // Others may run before this closure does, where the caller isn't on an actor.
        if isHeld, inFlightCount > 0 { drain.append(continuation) } else { continuation.resume() }
      }
    }
    return isHeld
  }

  /// Lets the held changes go on, in the order of their arrival. Idempotent.
  package func release() {
    isHeld = false
    resume(&held)
    resume(&drain)
  }

  /// Changes that wait for the release.
  package var heldCount: Int { held.count }

  private func waitForRelease() async {
    await withUnsafeContinuation { continuation in
      if isHeld { held.append(continuation) } else { continuation.resume() }
    }
  }

  private func resume(_ waiters: inout [UnsafeContinuation<Void, Never>]) {
    let all = waiters
    waiters = []
    for waiter in all { waiter.resume() }
  }

  /// Releases a hold: what waits for it fails at the closed device.
  package func close() async throws(BlockError) {
    release()
    try await next.close()
  }
}

/// Where nothing stands before a file that can do it.
extension Slot: PipeSource {
  package var fillsPipes: Bool { (next as? any PipeSource)?.fillsPipes ?? false }

  package func fill(pipe descriptor: Int32, from range: ByteRange) async throws(BlockError) -> Int {
    guard let source = next as? any PipeSource else {
      throw BlockError(.notSupported, .read, range, cause: "the device behind the slot fills no pipes")
    }
    return try await source.fill(pipe: descriptor, from: range)
  }
}
