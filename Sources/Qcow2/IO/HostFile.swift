import BlockCore
import Buffers

/// The file device under an image: takes requests of any alignment, grows the file, and latches.
///
/// Once a write of metadata or a flush has failed, what the file holds is no longer known: nothing more is written.
final class HostFile: @unchecked Sendable {
  // Safe to hand over: confined to the image's loop.

  /// The file grows in steps of an eighth of its size between these, so that a resize serves many allocations.
  static let growthStepByteCounts: ClosedRange<UInt64> = 1 << 20...64 << 20

  let device: any BlockDevice
  let pool: BufferPool
  let clusterByteCount: UInt64
  /// The file of the guest's data, where that isn't this one: durable before this file's tables are.
  let dataFile: HostFile?
  private let growsExactly: Bool
  private(set) var isLatched = false
  /// What only ``writeTable(_:at:of:)`` may write over.
  let places: MetadataPlaces
  /// What lies from here on was made by growing the file and never written: it reads as zeroes.
  private var pristineStart: UInt64
  // Where blocks are read, changed and written back, nobody else may write to them.
  private let blocks = RangeLock()
  private let growth = RangeLock()

  /// - Parameter growsExactly: the file is made no longer than is asked for.
  init(
    _ device: any BlockDevice, clusterByteCount: UInt64, pool: BufferPool, dataFile: HostFile? = nil,
    growsExactly: Bool = false
  ) {
    self.device = device
    self.dataFile = dataFile
    self.growsExactly = growsExactly
    self.pool = pool
    self.clusterByteCount = clusterByteCount
    places = MetadataPlaces(clusterBits: UInt64(clusterByteCount.trailingZeroBitCount))
    pristineStart = device.byteCount
  }

  var byteCount: UInt64 { device.byteCount }

  func checkLatch(_ operation: BlockError.Operation) throws(BlockError) {
    if isLatched { throw BlockError(.latchedFailed, operation) }
  }

  func latch() { isLatched = true }

  func isPristine(_ offset: UInt64) -> Bool { offset >= pristineStart }

  func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    try device.tryReadUnaligned(into: &buffer, at: offset)
  }

  nonisolated(nonsending)
    func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError)
  {
    try await device.readUnaligned(into: &buffer, at: offset, pool: pool)
  }

  /// Throws, and latches, if metadata lies where something else is to be stored or given back.
  func checkNotMetadata(_ range: ByteRange, besides kind: MetadataPlaces.Kind? = nil) throws(BlockError) {
    guard let found = places.overlap(range, besides: kind) else { return }
    latch()
    throw BlockError(
      .corrupt("the image's tables give away the place of other metadata: the \(found)'s, in \(range) of the file"),
      .write, range)
  }

  /// Writes guest data: a failure concerns nothing else.
  /// - Parameter kind: the metadata that may be overwritten; none for guest data.
  nonisolated(nonsending)
    func write(
      _ bytes: RawSpan, at offset: UInt64, options: WriteOptions = [], over kind: MetadataPlaces.Kind? = nil
    ) async throws(BlockError)
  {
    try checkNotMetadata(ByteRange(offset: offset, length: UInt64(bytes.byteCount)), besides: kind)
    try checkLatch(.write)
    try await grow(toHold: offset + UInt64(bytes.byteCount))
    pristineStart = max(pristineStart, offset + UInt64(bytes.byteCount))
    let alignment = UInt64(device.limits.requestAlignment)
    guard alignment > 1 else { return try await writeAligned(bytes, at: offset, options: options) }
    let range = ByteRange(offset: offset, length: UInt64(bytes.byteCount))
    let aligned = range.aligned(to: alignment)
    let hold = await blocks.acquire(aligned, aligned == range ? .shared : .exclusive)
    defer { blocks.release(hold) }
    if aligned == range { return try await writeAligned(bytes, at: offset, options: options) }
    try await writeMerged(bytes, range, aligned, options)
  }

  nonisolated(nonsending)
    private func writeAligned(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError)
  {
    let limits = device.limits
    let step = max(limits.maximumTransferByteCount / limits.requestAlignment, 1) * limits.requestAlignment
    var done = 0
    while done < bytes.byteCount {
      let end = min(bytes.byteCount, done + step)
      try await device.write(bytes.extracting(done..<end), at: offset + UInt64(done), options: options)
      done = end
    }
  }

  /// Reads the blocks at both ends, puts the bytes between, and writes whole blocks.
  nonisolated(nonsending)
    private func writeMerged(
      _ bytes: RawSpan, _ range: ByteRange, _ aligned: ByteRange, _ options: WriteOptions
    ) async throws(BlockError)
  {
    let block = device.limits.requestAlignment
    let count = Int(aligned.length)
    var merged = pool.take(count)
    var all = merged.mutableBytes
    if range.offset > aligned.offset || count == block {
      var first = all.part(0..<block)
      try await device.readUnaligned(into: &first, at: aligned.offset, pool: pool)
    }
    if range.end < aligned.end, count > block {
      var last = all.part(count - block..<count)
      try await device.readUnaligned(into: &last, at: aligned.end - UInt64(block), pool: pool)
    }
    all.copy(from: bytes, at: Int(range.offset - aligned.offset))
    try await writeAligned(merged.bytes.extracting(0..<count), at: aligned.offset, options: options)
  }

  /// Writes metadata, over nothing but its own kind; a failure latches.
  nonisolated(nonsending)
    func writeTable(_ bytes: RawSpan, at offset: UInt64, of kind: MetadataPlaces.Kind) async throws(BlockError)
  {
    do {
      try await write(bytes, at: offset, over: kind)
    } catch {
      latch()
      throw error
    }
  }

  /// Makes everything written so far durable; a failure latches, as nobody can say what was lost.
  nonisolated(nonsending)
    func flush() async throws(BlockError)
  {
    try checkLatch(.flush)
    do {
      try await dataFile?.device.flush()
      try await device.flush()
    } catch {
      latch()
      throw error
    }
  }

  /// Makes a range read as zeroes, in whatever way its device has.
  nonisolated(nonsending)
    func zero(_ range: ByteRange, options: ZeroOptions = []) async throws(BlockError)
  {
    try checkNotMetadata(range)
    if isPristine(range.offset) { return }
    try checkLatch(.writeZeroes)
    pristineStart = max(pristineStart, range.end)
    let alignment = UInt64(device.limits.requestAlignment)
    if range.aligned(to: alignment) == range, range.end <= byteCount {
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
  nonisolated(nonsending)
    func giveBack(_ range: ByteRange) async
  {
    let alignment = UInt64(device.limits.requestAlignment)
    guard !isLatched, places.overlap(range) == nil, range.end <= byteCount, range.aligned(to: alignment) == range else {
      return
    }
    try? await device.discard(range)
  }

  /// Makes the file at least `end` bytes long, in larger steps than asked for.
  nonisolated(nonsending)
    func grow(toHold end: UInt64) async throws(BlockError)
  {
    if end <= byteCount { return }
    let hold = await growth.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { growth.release(hold) }
    guard end > byteCount else { return }
    try checkLatch(.resize)
    let bounds = Self.growthStepByteCounts
    let step = min(max(byteCount / 8, bounds.lowerBound), bounds.upperBound)
    let unit = max(UInt64(device.limits.requestAlignment), clusterByteCount)
    let size =
      growsExactly
      ? ByteRange(offset: 0, length: end).aligned(to: UInt64(device.limits.requestAlignment)).length
      : ByteRange(offset: 0, length: max(end, byteCount + step)).aligned(to: unit).length
    do {
      try await device.resize(to: size)
    } catch  where error.kind == .notSupported {
      throw BlockError(.noSpace, .write, cause: "the device under the image has a fixed size")
    }
  }

  /// Makes a data file as long as the guest's disk, for those that take it for a raw image.
  nonisolated(nonsending)
    func growExactly(to end: UInt64) async throws(BlockError)
  {
    if growsExactly { try await grow(toHold: end) }
  }

  /// Cuts off what growing made and nobody uses.
  nonisolated(nonsending)
    func trim(to end: UInt64) async throws(BlockError)
  {
    let alignment = UInt64(device.limits.requestAlignment)
    let size = ByteRange(offset: 0, length: end).aligned(to: alignment).length
    guard size < byteCount, !isLatched else { return }
    do {
      try await device.resize(to: size)
    } catch  where error.kind == .notSupported {
      return
    }
  }
}
