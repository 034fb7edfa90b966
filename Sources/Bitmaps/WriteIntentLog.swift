import BlockCore
import Bytes

/// Which regions of a disk a power loss may have changed, or taken back to what they were: told by storage of its own, so
/// that it is there afterwards.
///
/// L1. A change begins (``begin(_:)``) only once the log durably has its regions. Changes that want regions at the same
///     time share a write; a region that the log has costs a change no wait.
/// L2. A region leaves only by ``remove(_:_:)``: if no change in it was in flight at the ``quiet()`` before, and none has
///     begun since. Between the two the caller makes durable what its changes did, and the bits that tell of them.
/// L3. Regions that leave are gone before the write that says so: a change in one waits for a write of its own.
/// L4. Two slots are written in turn. Whatever is cut off, the newest whole one holds all regions of changes that began.
/// L5. A failed write is the last one: the storage holds one or the other slot, and nothing begins any more.
package final class WriteIntentLog: @unchecked Sendable {
  // Safe to hand over: confined to the loop of its device.

  /// What the log says beside its regions.
  package struct Head: Hashable, Sendable {
    /// Tells this record of changes from all others.
    package var record: UInt128
    /// Tells this time of being open from others.
    package var session: UInt64
    /// The state of the record that counts, and the next one if the record is about to pass to it, or the same.
    package var sequence: UInt64
    package var nextSequence: UInt64
    /// Tells this time of the machine's running from others.
    package var boot: UInt128

    package init(record: UInt128, session: UInt64, sequence: UInt64, boot: UInt128) {
      self.record = record
      self.session = session
      self.sequence = sequence
      nextSequence = sequence
      self.boot = boot
    }
  }

  /// What was found on the storage.
  package struct Contents: Hashable, Sendable {
    package let head: Head
    package let regions: Regions
    package let logged: RegionSet
    /// When it was written.
    package let seconds: Int64
    fileprivate let count: UInt64
  }

  private static let headByteCount = 4096
  private static let slotByteCount = headByteCount + RegionSet.byteCount
  private static let magic: UInt64 = 0x436F_6277_6542_4C31
  /// Bytes of its storage.
  package static let byteCount = UInt64(2 * slotByteCount)

  private let device: any BlockDevice
  private let now: @Sendable () -> Int64
  package let regions: Regions
  package private(set) var head: Head
  /// Writes so far: even ones go to the first slot.
  private var writeCount: UInt64
  private var isWriting = false
  private var failure: BlockError?
  private var waiters: [UnsafeContinuation<Void, Never>] = []

  /// The storage has them, and keeps them.
  // Confined, as all else; the checks at run time would take longer than the rest of a change here.
  @exclusivity(unchecked) private var logged: RegionSet
  private var wanted = RegionSet()
  /// Changes have begun in them since the last ``quiet()``.
  @exclusivity(unchecked) private var touched = RegionSet()
  /// Changes in flight, by region.
  @exclusivity(unchecked) private var inFlight: [UInt32]

  private init(
    _ device: any BlockDevice, _ regions: Regions, _ head: Head, logged: RegionSet, writeCount: UInt64,
    now: @escaping @Sendable () -> Int64
  ) {
    self.device = device
    self.now = now
    self.regions = regions
    self.head = head
    self.logged = logged
    self.writeCount = writeCount
    inFlight = Array(repeating: 0, count: regions.indices(of: ByteRange(offset: 0, length: regions.byteCount)).count)
  }

  /// An empty log for a disk of that size. Durable when it returns.
  /// - Parameters:
  ///   - device: ``byteCount`` long; it stays the caller's.
  ///   - now: seconds since 1970.
  package static func create(
    on device: any BlockDevice, diskByteCount: UInt64, _ head: Head, now: @escaping @Sendable () -> Int64
  ) async throws(BlockError) -> WriteIntentLog {
    let log = WriteIntentLog(
      device, Regions(byteCount: diskByteCount), head, logged: RegionSet(), writeCount: 0, now: now)
    // Both slots are written, so that no later write has to find storage.
    for _ in 0..<2 { try await log.write() }
    return log
  }

  /// The newest slot that is whole; nil if none is.
  package static func contents(of device: any BlockDevice) async throws(BlockError) -> Contents? {
    guard device.byteCount >= byteCount else { return nil }
    var newest: Contents?
    for slot in 0..<2 {
      var bytes = [UInt8](repeating: 0, count: slotByteCount)
      do {
        var span = bytes.mutableSpan
        var raw = span.mutableBytes
        try await device.read(into: &raw, at: UInt64(slot * slotByteCount))
      }
      guard let found = Contents(decoding: bytes), found.count > newest?.count ?? 0 else { continue }
      newest = found
    }
    return newest
  }

  /// Goes on with a log that another process left.
  package static func continuing(
    _ contents: Contents, on device: any BlockDevice, now: @escaping @Sendable () -> Int64
  ) -> WriteIntentLog {
    WriteIntentLog(
      device, contents.regions, contents.head, logged: contents.logged, writeCount: contents.count, now: now)
  }

  // MARK: Changes of the disk

  /// Begins a change if the log has all regions of the range; false, without an effect, if it hasn't.
  package func tryBegin(_ range: ByteRange) -> Bool {
    let indices = regions.indices(of: range)
    for index in indices where !logged.contains(index) { return false }
    for index in indices {
      touched.insert(index)
      inFlight[index] += 1
    }
    return true
  }

  /// Begins a change, once the log has its regions. ``ended(_:)`` follows when it has ended, however.
  package func begin(_ range: ByteRange) async throws(BlockError) {
    while !tryBegin(range) {
      wanted.formUnion(RegionSet(regions.indices(of: range)))
      try await write { regions.indices(of: range).contains { !logged.contains($0) } }
    }
  }

  package func ended(_ range: ByteRange) {
    for index in regions.indices(of: range) { inFlight[index] -= 1 }
  }

  // MARK: Regions that leave

  /// Those in which no change is in flight, and none has begun since this was last asked: they may leave soon.
  package func quiet() -> RegionSet {
    var quiet = logged
    quiet.subtract(touched)
    for index in quiet.indices where inFlight[index] > 0 { quiet.remove(index) }
    touched = RegionSet()
    return quiet
  }

  /// Removes regions that ``quiet()`` named, but for those in which a change has begun since. Durable when it returns.
  package func remove(_ quiet: RegionSet, _ head: Head) async throws(BlockError) {
    try await write {
      var leaving = quiet
      leaving.subtract(touched)
      logged.subtract(leaving)
      self.head = head
      return true
    }
  }

  /// Writes the log with another head. Durable when it returns.
  package func set(_ head: Head) async throws(BlockError) {
    try await write {
      self.head = head
      return true
    }
  }

  // MARK: Writing

  /// One write at a time. All that is wanted when it begins goes with it.
  /// - Parameter isNeeded: asked, and may change what is written, right before.
  private func write(_ isNeeded: () -> Bool = { true }) async throws(BlockError) {
    while isWriting { await waitForWrite() }
    if let failure { throw failure }
    guard isNeeded() else { return }
    isWriting = true
    let wanted = wanted
    self.wanted = RegionSet()
    var next = logged
    next.formUnion(wanted)
    let bytes = encoded(next, count: writeCount + 1)
    do throws(BlockError) {
      try await device.write(
        bytes.span.bytes, at: writeCount % 2 * UInt64(Self.slotByteCount), options: .forceUnitAccess)
      writeCount += 1
      logged.formUnion(wanted)
    } catch {
      failure = error
    }
    isWriting = false
    let all = waiters
    waiters = []
    for waiter in all { waiter.resume() }
    if let failure { throw failure }
  }

  private func waitForWrite() async {
    await withUnsafeContinuation { continuation in
      // Others may run before this closure does, where the caller isn't on an actor.
      if isWriting { waiters.append(continuation) } else { continuation.resume() }
    }
  }

  private func encoded(_ logged: RegionSet, count: UInt64) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(Self.slotByteCount)
    bytes.append(bigEndian: Self.magic)
    bytes.append(bigEndian: count)
    bytes.append(bigEndian: head.record)
    bytes.append(bigEndian: head.session)
    bytes.append(bigEndian: head.sequence)
    bytes.append(bigEndian: head.nextSequence)
    bytes.append(bigEndian: head.boot)
    bytes.append(bigEndian: now())
    bytes.append(bigEndian: regions.byteCount)
    bytes += [UInt8](repeating: 0, count: Self.headByteCount - bytes.count)
    logged.encode(into: &bytes)
    Digest(of: bytes.span.bytes).store(in: &bytes, at: Self.headByteCount - Digest.byteCount)
    return bytes
  }
}

extension WriteIntentLog.Contents {
  /// Nil unless the slot is whole: its digest is of all the rest, with zeroes in its own place.
  fileprivate init?(decoding slot: [UInt8]) {
    var blank = slot
    let place = WriteIntentLog.headByteCount - Digest.byteCount
    blank.replaceSubrange(place..<place + Digest.byteCount, with: [UInt8](repeating: 0, count: Digest.byteCount))
    let bytes = slot.span.bytes
    guard bytes.bigEndian(UInt64.self, at: 0) == WriteIntentLog.magic,
      Digest(from: bytes, at: place) == Digest(of: blank.span.bytes)
    else { return nil }
    count = bytes.bigEndian(at: 8)
    var head = WriteIntentLog.Head(
      record: bytes.bigEndian(at: 16), session: bytes.bigEndian(at: 32), sequence: bytes.bigEndian(at: 40),
      boot: bytes.bigEndian(at: 56))
    head.nextSequence = bytes.bigEndian(at: 48)
    self.head = head
    seconds = bytes.bigEndian(at: 72)
    regions = Regions(byteCount: bytes.bigEndian(at: 80))
    logged = RegionSet(decoding: bytes.extracting(WriteIntentLog.headByteCount..<slot.count))
  }
}
