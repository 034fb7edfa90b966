import BlockCore
import Buffers
import Glibc

/// A device whose power can be cut: what was written reads back at once, but lasts only after a flush.
///
/// Changing calls (write, writeZeroes, discard, flush, resize) are counted from 1. Power goes as the chosen one
/// begins: it fails, it may have been carried out in any part, and so may all that wasn't flushed before it; from
/// then on every call fails. ``durableImages(seed:count:)`` then gives disks that could be found afterwards.
/// A sector holds its durable version or any later one.
package final class CrashPointDevice: BlockDevice, @unchecked Sendable {
  // Safe to hand over: confined to its home loop, like every device.

  private let live: MemoryDevice
  private var durable: SparseImage
  private var pending: [UnflushedChange] = []
  private var nextSequence: UInt64 = 0
  private var crashCall: Int?
  /// Changing calls so far.
  package private(set) var changingCalls = 0
  /// True once power is gone.
  package private(set) var isCut = false

  /// A device whose contents, `image`, are durable.
  package init(_ image: SparseImage, options: MemoryDevice.Options = MemoryDevice.Options()) {
    live = MemoryDevice(image, options: options)
    durable = image
  }

  package convenience init(byteCount: UInt64, options: MemoryDevice.Options = MemoryDevice.Options()) {
    self.init(SparseImage(byteCount: byteCount), options: options)
  }

  /// Chooses the changing call, counted from the device's beginning, at which power goes; nil for never.
  package func crash(atCall call: Int?) { crashCall = call }

  /// Cuts power now, between two calls.
  package func crashNow() { isCut = true }

  /// What the device reads as while it has power.
  package var liveImage: SparseImage { live.image }
  package var byteCount: UInt64 { live.byteCount }
  package var limits: BlockLimits { live.limits }
  package var isReadOnly: Bool { live.isReadOnly }

  package func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    try checkPower(.read)
    return try live.tryRead(into: &buffer, at: offset)
  }

  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError) {
    try checkPower(.read)
    try await live.read(into: &buffer, at: offset)
    try checkPower(.read)
  }

  package func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError) {
    try beginChange(.write)
    try await live.write(bytes, at: offset, options: options)
    let copy = bytes.withUnsafeBytes { [UInt8]($0) }
    try endChange(.write, .bytes(copy, offset), isDurable: options.contains(.forceUnitAccess))
  }

  package func writeZeroes(_ range: ByteRange, options: ZeroOptions) async throws(BlockError) {
    try beginChange(.writeZeroes)
    try await live.writeZeroes(range, options: options)
    let change = UnflushedChange.Content.zeroes(range, unmap: options.contains(.mayUnmap))
    try endChange(.writeZeroes, change, isDurable: options.contains(.forceUnitAccess))
  }

  package func discard(_ range: ByteRange) async throws(BlockError) {
    try beginChange(.discard)
    try await live.discard(range)
    let whole = live.image.wholeBlocks(in: range) ?? ByteRange(offset: range.offset, length: 0)
    try endChange(.discard, .zeroes(whole, unmap: true), isDurable: false)
  }

  package func flush() async throws(BlockError) {
    try beginChange(.flush)
    if isCut { throw powerLoss(.flush) }
    let answered = nextSequence
    try await live.flush()
    try checkPower(.flush)
    // Changes take effect and are answered in one step, so those before `answered` are just the answered ones.
    let count = pending.firstIndex { $0.sequence >= answered } ?? pending.count
    for change in pending[..<count] { change.apply(to: &durable) }
    pending.removeFirst(count)
  }

  package func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
    try checkPower(.blockStatus)
    let extents = try await live.blockStatus(range, limit: limit)
    try checkPower(.blockStatus)
    return extents
  }

  package func resize(to byteCount: UInt64) async throws(BlockError) {
    try beginChange(.resize)
    try await live.resize(to: byteCount)
    try endChange(.resize, .size(byteCount), isDurable: false)
  }

  /// Keeps nothing back, so it flushes nothing: unflushed changes stay so.
  package func close() async throws(BlockError) {
    try checkPower(.close)
    try await live.close()
    try checkPower(.close)
  }

  /// Disks that could be found after power went (or would go now): none of the unflushed changes made it, all did,
  /// and `count` seeded choices, some of whole changes and some sector by sector. Only the first if all was flushed.
  package func durableImages(seed: UInt64, count: Int = 6) -> [MemoryDevice] {
    var random = SeededRandom(seed: seed)
    var images = [UnflushedChange.result(of: pending, on: durable) { _ in .nothing }]
    if !pending.isEmpty {
      images.append(UnflushedChange.result(of: pending, on: durable) { _ in .everything })
      for round in 0..<count { images.append(chosenImage(round: round, &random)) }
    }
    return images.map { MemoryDevice($0, options: reopeningOptions) }
  }

  private var reopeningOptions: MemoryDevice.Options {
    var options = live.options
    options.isReadOnly = false
    return options
  }

  private func chosenImage(round: Int, _ random: inout SeededRandom) -> SparseImage {
    let likelihood = 1 + random.below(7)
    let special = random.below(pending.count)
    let sectors = random.next()
    return UnflushedChange.result(of: pending, on: durable) { index in
      switch round % 4 {
      // All but one: what a missing flush between two changes would lose.
      case 0: index == special ? .nothing : .everything
      // Only one, torn: it overtook everything before it.
      case 1: index == special ? .sectors(SeededRandom(seed: sectors), likelihood: 6) : .nothing
      // Whole changes by chance.
      case 2: random.below(8) < likelihood ? .everything : .nothing
      // Sector by sector.
      default: .sectors(SeededRandom(seed: sectors &+ UInt64(index)), likelihood: likelihood)
      }
    }
  }

  private func beginChange(_ operation: BlockError.Operation) throws(BlockError) {
    try checkPower(operation)
    changingCalls += 1
    if changingCalls == crashCall { isCut = true }
  }

  /// Records a change that took effect. If power went meanwhile, it is one more that may have made it, and fails.
  private func endChange(
    _ operation: BlockError.Operation, _ content: UnflushedChange.Content, isDurable: Bool
  ) throws(BlockError) {
    pending.append(UnflushedChange(sequence: nextSequence, content: content, isDurable: isDurable && !isCut))
    nextSequence += 1
    try checkPower(operation)
  }

  private func checkPower(_ operation: BlockError.Operation) throws(BlockError) {
    if isCut { throw powerLoss(operation) }
  }

  private func powerLoss(_ operation: BlockError.Operation) -> BlockError {
    BlockError(.io(errno: EIO), operation, cause: "the power was cut")
  }
}
