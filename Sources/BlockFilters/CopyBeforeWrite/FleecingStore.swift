import BlockCore
import Buffers

/// Keeps the old bytes of one image's grains: in memory as far as that has room, and in a temp on local storage.
///
/// F1. Bytes go to memory first. Where more than half of its share is taken, the oldest are written to the temp
///     (write-behind). Where nothing is left, the bytes go to the temp at once.
/// F2. Spilling writes from the memory that it gives back: it takes none.
/// F3. The temp is raw, its index lives in memory alone, and it is never flushed: what a crash leaves there has no reader.
/// F4. Places that were freed are used again first; the storage of the others is discarded.
/// F5. Memory is made ready beside the loop before it is taken: no change waits for its clearing while it comes in time.
/// F6. A temp whose write failed is written no more. One that has no space left is full until a grain is freed.
package final class FleecingStore: @unchecked Sendable {
  // Safe to hand over: confined to the loop of its image.

  /// Why bytes couldn't be kept.
  enum Refusal: Error {
    case full
    case failed(BlockError)
  }

  package let grainByteCount: UInt64
  private let temp: (any BlockDevice)?
  private let space: FleecingSpace?
  private let share: FleecingMemory.Share
  private let pool: BufferPool
  private let loop: any HomeLoop
  private var slots: TempSlots
  /// What lies in memory and could be spilled, by the turn in which it came.
  private var inMemory: [UInt64: StoredGrain] = [:]
  private var oldestTurn: UInt64 = 0
  private var nextTurn: UInt64 = 0
  private var isAtWork = false
  private var isStocking = false
  private var tempFailure: BlockError?
  private var isOutOfSpace = false
  private var discards = true
  private(set) var wakes: UInt64 = 0
  private var waiting: [UnsafeContinuation<Void, Never>] = []

  /// - Parameters:
  ///   - grainByteCount: a power of two of at least 4 KiB, and a multiple of the temp's alignment.
  ///   - temp: closed with the store; nil if there is memory only.
  ///   - space: what the temp shares with others; nil: its size alone bounds it.
  package init(
    grainByteCount: UInt64, memory: FleecingMemory, temp: (any BlockDevice)?, space: FleecingSpace? = nil,
    pool: BufferPool, on loop: any HomeLoop
  ) {
    precondition(grainByteCount >= 4096 && grainByteCount & (grainByteCount - 1) == 0)
    precondition(temp.map { grainByteCount % UInt64($0.limits.requestAlignment) == 0 } ?? true)
    self.grainByteCount = grainByteCount
    self.temp = temp.map { AlignedAccess.over($0, pool: pool) }
    self.space = space
    self.pool = pool
    self.loop = loop
    share = memory.share()
    slots = TempSlots(count: (temp?.byteCount ?? 0) / grainByteCount)
  }

  deinit { space?.giveBack(tempByteCount) }

  package var memoryByteCount: Int { share.usedByteCount }
  package var memoryHighWaterByteCount: Int { share.highWaterByteCount }
  package var tempByteCount: UInt64 { slots.usedCount * grainByteCount }
  package var tempHighWaterByteCount: UInt64 { slots.highWaterCount * grainByteCount }

  /// Ends the use of the temp. Nothing may be kept or read any more.
  package func close() async throws(BlockError) {
    wake()
    try await temp?.close()
  }

  // MARK: Grains

  /// Keeps a grain of `source`, whose memory holds whole grains.
  func keep(_ grain: ByteRange, of source: GrainBytes) async throws(Refusal) -> StoredGrain {
    guard share.take(Int(grainByteCount)) else { return try await keepInTemp(grain, of: source) }
    let stored = StoredGrain(grain, memory: charged(grain, of: source))
    stored.turn = nextTurn
    inMemory[nextTurn] = stored
    nextTurn += 1
    work()
    stockUp()
    return stored
  }

  /// Buffers that are ready before a moment, and at least half of that afterwards.
  package static let stockCount = 64

  /// Has buffers made ready for what comes, as far as the share has room for it.
  private func stockUp() {
    let size = Int(grainByteCount)
    let room = (share.limitByteCount - share.usedByteCount) / size
    let ready = pool.stockCount(of: size)
    guard !isStocking, ready < min(Self.stockCount / 2, room) else { return }
    isStocking = true
    loop.start { [self] in
      await loop.offload { [pool] in pool.stock(size, count: min(Self.stockCount, room)) }
      isStocking = false
    }
  }

  /// The grain in memory of the share, which was taken from it.
  private func charged(_ grain: ByteRange, of source: GrainBytes) -> GrainBytes {
    if source.range == grain {
      source.charge(to: share)
      return source
    }
    var buffer = pool.take(Int(grainByteCount))
    var target = buffer.mutableBytes
    target.copy(from: source.bytes(at: grain.offset, Int(grainByteCount)))
    return GrainBytes(buffer, grain, from: share)
  }

  private func keepInTemp(_ grain: ByteRange, of source: GrainBytes) async throws(Refusal) -> StoredGrain {
    if let tempFailure { throw .failed(tempFailure) }
    guard let slot = takeSlot() else { throw .full }
    let stored = StoredGrain(grain, slot: slot)
    if await writes(source, grain, to: slot) { return stored }
    if let tempFailure { throw .failed(tempFailure) }
    throw .full
  }

  /// Fills `buffer` from the disk's bytes at `offset`, which lie in the grain.
  func read(_ grain: StoredGrain, into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError) {
    if tryReadMemory(grain, into: &buffer, at: offset) { return }
    guard let temp, let place = place(of: offset, in: grain) else { throw BlockError(.closed, .read) }
    try await temp.read(into: &buffer, at: place)
  }

  /// The same without waiting; false if the bytes aren't at hand.
  func tryRead(_ grain: StoredGrain, into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    if tryReadMemory(grain, into: &buffer, at: offset) { return true }
    guard let temp, let place = place(of: offset, in: grain) else { return false }
    return try temp.tryRead(into: &buffer, at: place)
  }

  private func tryReadMemory(_ grain: StoredGrain, into buffer: inout MutableRawSpan, at offset: UInt64) -> Bool {
    guard let memory = grain.memory else { return false }
    buffer.copy(from: memory.bytes(at: offset, buffer.byteCount))
    return true
  }

  private func place(of offset: UInt64, in grain: StoredGrain) -> UInt64? {
    grain.slot.map { $0 * grainByteCount + offset - grain.range.offset }
  }

  /// Gives up what one user has of a grain.
  func free(_ grain: StoredGrain) {
    grain.userCount -= 1
    if grain.userCount <= 0 { drop(grain) }
  }

  /// Gives up a grain without users.
  func drop(_ grain: StoredGrain) {
    if let turn = grain.turn { inMemory[turn] = nil }
    grain.memory = nil
    if let slot = grain.slot { free(slot) }
    grain.slot = nil
    isOutOfSpace = false
    wake()
    work()
  }

  // MARK: Room

  /// Waits until ``wake()`` has been called since `wakes` was looked at, as it is where room has come.
  func waitForRoom(since seen: UInt64) async {
    await withUnsafeContinuation { continuation in
      // Others may run before this closure does, where the caller isn't on an actor.
      if wakes == seen { waiting.append(continuation) } else { continuation.resume() }
    }
  }

  /// Has all that wait for room look again.
  func wake() {
    wakes &+= 1
    let all = waiting
    waiting = []
    for waiter in all { waiter.resume() }
  }

  // MARK: Spilling

  private var wantsToSpill: Bool {
    tempFailure == nil && !isOutOfSpace && !inMemory.isEmpty && share.usedByteCount > share.limitByteCount / 2
  }

  /// Begins to spill and to discard, unless that is under way.
  private func work() {
    guard temp != nil, !isAtWork, wantsToSpill || (discards && slots.hasDirty) else { return }
    isAtWork = true
    loop.start { [self] in
      var goesOn = true
      while goesOn {
        goesOn = await spillOne()
        if !goesOn { goesOn = await discardSome() }
      }
      isAtWork = false
    }
  }

  /// False if there is nothing to spill, or nowhere to.
  private func spillOne() async -> Bool {
    guard wantsToSpill, let grain = oldest(), let memory = grain.memory, let slot = takeSlot() else { return false }
    guard await writes(memory, grain.range, to: slot) else { return true }
    guard grain.memory != nil else {
      // Freed meanwhile.
      free(slot)
      return true
    }
    if let turn = grain.turn { inMemory[turn] = nil }
    (grain.turn, grain.memory, grain.slot) = (nil, nil, slot)
    wake()
    return true
  }

  private func oldest() -> StoredGrain? {
    while oldestTurn < nextTurn {
      if let grain = inMemory[oldestTurn] { return grain }
      oldestTurn += 1
    }
    return nil
  }

  private func takeSlot() -> UInt64? {
    guard !isOutOfSpace, space?.take(grainByteCount) != false else { return nil }
    if let slot = slots.take() { return slot }
    space?.giveBack(grainByteCount)
    return nil
  }

  private func free(_ slot: UInt64) {
    slots.free(slot)
    space?.giveBack(grainByteCount)
  }

  /// Writes a grain to its place in the temp. False if that failed; the place is free again then.
  private func writes(_ source: GrainBytes, _ grain: ByteRange, to slot: UInt64) async -> Bool {
    guard let temp else { return false }
    do {
      try await temp.write(source.bytes(at: grain.offset, Int(grainByteCount)), at: slot * grainByteCount)
      return true
    } catch {
      slots.freeUnwritten(slot)
      space?.giveBack(grainByteCount)
      if error.kind == .noSpace { isOutOfSpace = true } else { tempFailure = error }
      return false
    }
  }

  /// False if nothing is to be discarded.
  private func discardSome() async -> Bool {
    guard discards, let temp, slots.hasDirty else { return false }
    for run in slots.takeDirty() {
      let range = ByteRange(run.lowerBound * grainByteCount..<run.upperBound * grainByteCount)
      do {
        try await temp.discard(range)
        isOutOfSpace = false
      } catch {
        // A temp that can't give space back is one that stays as large as it grew.
        discards = false
      }
      slots.discarded(run)
    }
    wake()
    return true
  }
}
