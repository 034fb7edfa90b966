import Bitmaps
import BlockCore
import BlockFilters
import BlockTesting
import Buffers

/// Guests that write, zero, discard, read and flush, beside points in time with readers and a copy: in an order of all
/// completions that the seed draws. What a view shows must be what lay on the disk at its moment, byte by byte.
final class CopyBeforeWriteStory: @unchecked Sendable {
  // Safe to hand over: confined to its loop.

  struct Setting: Sendable {
    var byteCount: UInt64 = 40 * 4096 + 1536
    var memoryByteCount = 8 * 4096
    var tempGrainCount: UInt64 = 64
    var options = CopyBeforeWrite.Options(copyByteCount: 2 * 4096)
    var guestCount = 4
    var stepsOfEachGuest = 60
    /// Views that are open at once.
    var observerCount = 2
    var roundsOfEachObserver = 3
    /// Faults of the source's reads, and of the temp.
    var sourceFault: Fault?
    var tempFault: Fault?
    var impatience = 0
    /// What the disk holds at first lies in a backing file, which is a little shorter.
    var isBacked = false
    /// Views count only a part of the disk, and release what the copy has read.
    var selects = true
    var mistake: Mistake?
  }

  /// Wrong uses that the checker has to find.
  enum Mistake: CaseIterable, Sendable {
    /// A point begins without a hold of the slot.
    case beginsAmidChanges
    /// Some kind of change goes past the filter.
    case discardsPass, zeroesPass
    /// Of a write's last grain the filter isn't told.
    case lastGrainIsLeftOut
    /// The temp gives back what it was given a moment ago.
    case tempMixesUpGrains
    /// The source's own bytes at the end of a read, whatever was kept.
    case readsTheSource
  }

  let setting: Setting
  let seed: UInt64
  let loop: SteppedLoop
  /// The disk itself.
  let disk: any BlockDevice
  let tempMemory: MemoryDevice
  let source: FaultyDevice
  let temp: FaultyDevice
  let store: FleecingStore
  let filter: CopyBeforeWrite
  let slot: Slot
  let pool = BufferPool()
  let guest: GuestModel
  var random: SeededRandom
  private var failures: [any Error] = []
  private var runningCount = 0
  /// An observer has the guests held.
  var isHeld = false
  /// Why points were lost.
  var losses: [PointInTimeLoss] = []
  /// Changes that failed for want of room.
  private(set) var refusedCount = 0
  /// Reads of views that were compared.
  var comparedCount = 0
  var reports: [CopyBeforeWriteReport] = []

  init(_ setting: Setting, seed: UInt64) {
    self.setting = setting
    self.seed = seed
    random = SeededRandom(seed: seed)
    loop = SteppedLoop(seed: seed &+ 7, usesActors: seed % 2 == 1)
    loop.impatience = setting.impatience
    let isBacked = setting.isBacked
    var image = SparseImage(byteCount: setting.byteCount - (isBacked ? 3 * 4096 + 512 : 0), blockByteCount: 1024)
    Self.fill(&image, &random)
    guest = GuestModel(image, byteCount: setting.byteCount)
    var options = MemoryDevice.Options()
    options.limits.requestAlignment = 512
    disk =
      isBacked
      ? LayeredDevice(byteCount: setting.byteCount, over: image, limits: options.limits)
      : MemoryDevice(image, options: options)
    let backing = isBacked ? HeldDevice(MemoryDevice(image), name: "backing", on: loop) : nil
    options.limits.requestAlignment = 4096
    tempMemory = MemoryDevice(
      SparseImage(byteCount: setting.tempGrainCount * 4096, blockByteCount: 4096), options: options)
    source = FaultyDevice(disk)
    temp = FaultyDevice(setting.mistake == .tempMixesUpGrains ? ShiftedDevice(tempMemory) : tempMemory)
    store = FleecingStore(
      grainByteCount: 4096, memory: FleecingMemory(limitByteCount: setting.memoryByteCount),
      temp: HeldDevice(temp, name: "temp", on: loop), pool: pool, on: loop)
    filter = CopyBeforeWrite(
      AlignedAccess(HeldDevice(source, name: "source", on: loop), pool: pool), backing: backing, store: store,
      options: setting.options, pool: pool, on: loop)
    if let mistake = setting.mistake { slot = Slot(Saboteur(mistake, before: filter)) } else { slot = Slot(filter) }
  }

  /// Plays it to its end and throws what is wrong.
  func play() throws {
    source.fault = setting.sourceFault
    temp.fault = setting.tempFault
    for _ in 0..<setting.guestCount { start { try await $0.beGuest() } }
    for _ in 0..<setting.observerCount { start { try await $0.observe() } }
    try loop.run { runningCount == 0 || !failures.isEmpty }
    if let failure = failures.first { throw failure }
    source.fault = nil
    start { try await $0.checkEnd() }
    try loop.run { runningCount == 0 }
    if let failure = failures.first { throw failure }
  }

  func start(_ body: @Sendable @escaping (CopyBeforeWriteStory) async throws -> Void) {
    runningCount += 1
    loop.start { [self] in
      do { try await body(self) } catch { failures.append(error) }
      runningCount -= 1
    }
  }

  var what: String { "seed \(seed)" }

  /// Two thirds of the image hold bytes, and some blocks of the rest are known to be zero.
  private static func fill(_ image: inout SparseImage, _ random: inout SeededRandom) {
    var offset: UInt64 = 0
    while offset < image.byteCount {
      let count = Int(min(random.oneIn(3) ? 1024 : 4096, image.byteCount - offset))
      defer { offset += UInt64(count) }
      switch random.below(6) {
      case 0: image.zero(ByteRange(offset: offset, length: UInt64(count)), unmap: false)
      case 1: break
      default: image.write(random.bytes(count).span.bytes, at: offset)
      }
    }
  }

  // MARK: Guests

  private func beGuest() async throws {
    for _ in 0..<setting.stepsOfEachGuest { try await guestStep() }
  }

  private func guestStep() async throws {
    let alignment = random.oneIn(2) ? 1 : 512
    let range = ByteRange(
      random.range(within: setting.byteCount, alignment: alignment, maximum: 5 * 4096, near: 4096))
    switch random.below(10) {
    case 0..<5:
      let bytes = random.bytes(Int(range.length))
      let options: WriteOptions = random.oneIn(8) ? .forceUnitAccess : []
      try await change(range, bytes) { slot throws(BlockError) in
        try await slot.writeBytes(bytes, at: range.offset, options: options)
      }
    case 5, 6:
      let options: ZeroOptions = random.oneIn(2) ? .mayUnmap : []
      try await change(range, [UInt8](repeating: 0, count: Int(range.length))) { slot throws(BlockError) in
        try await slot.writeZeroes(range, options: options)
      }
    case 7:
      try await change(range, nil) { slot throws(BlockError) in try await slot.discard(range) }
    case 8:
      let read = guest.beginRead(range)
      let found = try await allowingFaults { [slot] () throws(BlockError) in
        try await slot.readBytes(Int(range.length), at: range.offset)
      }
      try guest.end(read, found: found, what)
    default: try await slot.flush()
    }
  }

  private func change(
    _ range: ByteRange, _ bytes: [UInt8]?, _ body: (Slot) async throws(BlockError) -> Void
  ) async throws {
    let change = guest.begin(range)
    do {
      try await body(slot)
      guest.end(change, bytes)
    } catch {
      guest.end(change, nil)
      guard setting.options.onTempFull == .breakGuestWrite, error.kind == .noSpace else {
        // A part of a block is read before it is written.
        if setting.sourceFault != nil, error.kind == setting.sourceFault?.kind, error.operation == .read { return }
        throw error
      }
      refusedCount += 1
    }
  }

  /// Nil if a fault of the source's reads struck.
  func allowingFaults<Result>(
    _ body: () async throws(BlockError) -> Result
  ) async throws -> Result? {
    do {
      return try await body()
    } catch {
      if let fault = setting.sourceFault, error.kind == fault.kind { return nil }
      throw error
    }
  }
}
