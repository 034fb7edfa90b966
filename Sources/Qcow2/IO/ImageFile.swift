import BlockCore
import BlockFilters
import Buffers

/// The file device under an image: grows the file, guards its tables, and latches.
///
/// Once a write of metadata or a flush has failed, what the file holds is no longer known: nothing more is written.
///
/// **Lengths are whole blocks of the file system.** Where a file is made longer inside a page, the kernel zeroes the
/// rest of that page through the page cache. A direct write to the same page that is in flight then can't invalidate
/// the cache, and the kernel reports a lost page at the next flush. So the file ends at whole blocks, or gets there
/// before anything is written to its last block. A data file has exactly the disk's length, and gets it before its
/// first write. What only reads leaves the length as it is, and so does closing what wasn't changed.
///
/// **Blocks** that a request covers in part are the business of an `AlignedAccess`, which stands before a device that
/// wants alignment. Compressed clusters fill such blocks one after the other: see ``writePacked(_:at:)``.
final class ImageFile: @unchecked Sendable {
  // Safe to hand over: confined to the image's loop.

  /// The file grows in steps of an eighth of its size between these, so that a resize serves many allocations.
  static let growthStepByteCounts: ClosedRange<UInt64> = 1 << 20...64 << 20

  let device: any BlockDevice
  let pool: BufferPool
  let clusterByteCount: UInt64
  /// The file of the guest's data, where that isn't this one: durable before this file's tables are.
  let dataFile: ImageFile?
  /// The length that a data file is given, which is the disk's; nil for a file that grows in larger steps.
  private var exactByteCount: UInt64?
  /// What provides the file's storage fixes its length, as with block devices.
  private var hasFixedLength = false
  private(set) var isLatched = false
  /// Told once, of what latched the file.
  var onLatch: LatchReport?
  /// What only ``writeTable(_:at:of:)`` may write over.
  let regions: MetadataRegions
  /// What lies from here on was made by growing the file and never written: it reads as zeroes.
  private var pristineStart: UInt64
  /// What was packed and doesn't fill a block yet.
  let tails: PackedTails
  private let growth = RangeLock()

  /// - Parameter exactByteCount: for a data file, the length of the disk.
  init(
    _ device: any BlockDevice, clusterByteCount: UInt64, pool: BufferPool, dataFile: ImageFile? = nil,
    exactByteCount: UInt64? = nil
  ) {
    self.device = AlignedAccess.over(device, pool: pool)
    self.dataFile = dataFile
    self.exactByteCount = exactByteCount
    self.pool = pool
    self.clusterByteCount = clusterByteCount
    regions = MetadataRegions(clusterBits: UInt64(clusterByteCount.trailingZeroBitCount))
    pristineStart = device.byteCount
    let unit = device.limits.lengthAlignment
    tails = PackedTails(blockByteCount: unit <= clusterByteCount ? unit : 1)
  }

  var byteCount: UInt64 { device.byteCount }

  /// The largest block of a file system that lengths are multiples of. What prefers more is no local file system.
  private static let maximumLengthUnit = 64 << 10

  /// Lengths are multiples of this: a page, or the block of a file system whose blocks are larger.
  private var lengthUnit: UInt64 {
    let preferred = device.limits.preferredByteCount
    let isBlock = preferred.nonzeroBitCount == 1 && preferred <= Self.maximumLengthUnit
    return UInt64(max(device.limits.lengthAlignment, pageByteCount, isBlock ? preferred : 0))
  }

  func checkLatch(_ operation: BlockError.Operation) throws(BlockError) {
    if isLatched { throw BlockError(.latchedFailed, operation) }
  }

  /// Nothing is written any more, because of `error`.
  func latch(_ error: BlockError) {
    guard !isLatched else { return }
    isLatched = true
    onLatch?(error)
  }

  func isPristine(_ offset: UInt64) -> Bool { offset >= pristineStart }

  func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    if tails.overlaps(ByteRange(offset: offset, length: UInt64(buffer.byteCount))) { return false }
    return try device.tryReadPastEnd(into: &buffer, at: offset)
  }

  func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError) {
    // Those of the moment when the read begins: what is in the file by then is read from there.
    let held = tails.parts(of: ByteRange(offset: offset, length: UInt64(buffer.byteCount)))
    try await device.readPastEnd(into: &buffer, at: offset)
    for tail in held { tail.copy(into: &buffer, at: offset) }
  }

  /// Throws, and latches, if metadata lies where something else is to be stored or given back.
  func checkNotMetadata(_ range: ByteRange, besides kind: MetadataRegions.Kind? = nil) throws(BlockError) {
    guard let found = regions.overlap(range, besides: kind) else { return }
    let error = BlockError(
      .corrupt("the image's tables give away the place of other metadata: the \(found)'s, in \(range) of the file"),
      .write, range)
    latch(error)
    throw error
  }

  /// Writes guest data: a failure concerns nothing else.
  /// - Parameter kind: the metadata that may be overwritten; none for guest data.
  func write(
    _ bytes: RawSpan, at offset: UInt64, options: WriteOptions = [], over kind: MetadataRegions.Kind? = nil
  ) async throws(BlockError) {
    let range = ByteRange(offset: offset, length: UInt64(bytes.byteCount))
    try await prepare(range, over: kind)
    tails.forget(range)
    try await device.write(bytes, at: offset, options: options)
  }

  /// Everything that comes before a write.
  func prepare(_ range: ByteRange, over kind: MetadataRegions.Kind? = nil) async throws(BlockError) {
    try checkNotMetadata(range, besides: kind)
    try checkLatch(.write)
    try await grow(toHold: range.end)
    pristineStart = max(pristineStart, range.end)
  }

  /// Writes metadata, over nothing but its own kind; a failure latches.
  func writeTable(_ bytes: RawSpan, at offset: UInt64, of kind: MetadataRegions.Kind) async throws(BlockError) {
    do {
      try await write(bytes, at: offset, over: kind)
    } catch {
      latch(error)
      throw error
    }
  }

  /// Makes everything written so far durable; a failure latches, as nothing can tell what was lost.
  func flush() async throws(BlockError) {
    try checkLatch(.flush)
    do {
      try await dataFile?.device.flush()
      try await writeTails()
      try await device.flush()
    } catch {
      latch(error)
      throw error
    }
  }

  /// Makes a range read as zeroes, in whatever way its device has.
  func zero(_ range: ByteRange, options: ZeroOptions = []) async throws(BlockError) {
    try checkNotMetadata(range)
    if isPristine(range.offset) { return }
    try checkLatch(.writeZeroes)
    pristineStart = max(pristineStart, range.end)
    if !needsGrowth(toHold: range.end) {
      tails.forget(range)
      return try await device.writeZeroes(range, options: options)
    }
    var zeroes = pool.take(Int(min(range.length, clusterByteCount)))
    var all = zeroes.mutableBytes
    all.zero()
    var offset = range.offset
    while offset < range.end {
      let count = Int(min(range.end - offset, clusterByteCount))
      try await write(zeroes.bytes.extracting(0..<count), at: offset)
      offset += UInt64(count)
    }
  }

  /// Gives storage back where the device can; what fails here only wastes space.
  func giveBack(_ range: ByteRange) async {
    guard !isLatched, regions.overlap(range) == nil, range.end <= byteCount else { return }
    tails.forget(range)
    try? await device.discard(range)
  }

  /// True if the file has to have another length before the bytes up to `end` are written.
  private func needsGrowth(toHold end: UInt64) -> Bool {
    if end > byteCount { return true }
    if hasFixedLength { return false }
    if let exactByteCount { return byteCount < exactByteCount }
    let unit = lengthUnit
    return byteCount % unit != 0 && end > byteCount / unit * unit
  }

  /// Makes the file at least `end` bytes long, in larger steps than asked for, before anything is written up to there.
  func grow(toHold end: UInt64) async throws(BlockError) {
    guard needsGrowth(toHold: end) else { return }
    let hold = await growth.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { growth.release(hold) }
    guard needsGrowth(toHold: end) else { return }
    try checkLatch(.resize)
    do {
      try await device.resize(to: grownByteCount(toHold: end))
    } catch  where error.kind == .notSupported {
      hasFixedLength = true
      if end <= byteCount { return }
      throw BlockError(.noSpace, .write, cause: "the device under the image has a fixed size")
    }
  }

  private func grownByteCount(toHold end: UInt64) -> UInt64 {
    if let exactByteCount {
      let unit = UInt64(device.limits.lengthAlignment)
      return ByteRange(offset: 0, length: max(end, exactByteCount, byteCount)).aligned(to: unit).length
    }
    let unit = max(lengthUnit, clusterByteCount)
    // Only the last block is made whole.
    if end <= byteCount { return ByteRange(offset: 0, length: byteCount).aligned(to: lengthUnit).length }
    let bounds = Self.growthStepByteCounts
    let step = min(max(byteCount / 8, bounds.lowerBound), bounds.upperBound)
    return ByteRange(offset: 0, length: max(end, byteCount + step)).aligned(to: unit).length
  }

  /// Makes a data file as long as the guest's disk, for those that take it for a raw image. Nothing is being written.
  func growExactly(to end: UInt64) async throws(BlockError) {
    guard exactByteCount != nil else { return }
    exactByteCount = end
    try await grow(toHold: end)
  }

  /// Cuts off what growing made and nothing uses. Nothing is being written.
  func trim(to end: UInt64) async throws(BlockError) {
    let isExact = exactByteCount != nil
    if isExact { exactByteCount = end }
    let unit = isExact ? UInt64(device.limits.lengthAlignment) : lengthUnit
    let size = ByteRange(offset: 0, length: end).aligned(to: unit).length
    guard size < byteCount, !isLatched else { return }
    do {
      try await device.resize(to: size)
    } catch  where error.kind == .notSupported {
      return
    }
  }
}
