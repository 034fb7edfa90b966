import BlockCore
import BlockTesting
import Buffers

/// A device with one of the mistakes that block layers are known for, to see that the suite notices.
final class DefectiveDevice: BlockDevice, @unchecked Sendable {
  // Safe to hand over: confined to its home loop, like every device.

  enum Defect: CaseIterable, Sendable {
    case losesTheLastSector, zeroesWholeBlocks, discardsWholeBlocks, ignoresZeroes
    case callsEverythingZero, splitsExtents, startsStatusAtTheBlock, exceedsTheLimit
    case triesReadStaleBytes, takesReadsPastTheEnd, staysOpen, staysWritable, keepsBytesPastTheEnd
    case interleavesReadModifyWrite, readsLongRequestsAsZero, takesMisalignedRequests, losesEverythingOnClose

    /// The check that is there for this mistake; others may notice it too.
    var check: BlockDeviceConformance.Check {
      switch self {
      case .losesTheLastSector, .readsLongRequestsAsZero: .readsWhatWasWrittenAtEveryEdge
      case .zeroesWholeBlocks, .ignoresZeroes: .writeZeroesChangesJustItsRange
      case .discardsWholeBlocks: .discardChangesJustItsRange
      case .callsEverythingZero: .statusTellsZeroesTruly
      case .splitsExtents, .startsStatusAtTheBlock, .exceedsTheLimit: .statusCoversItsRange
      case .triesReadStaleBytes: .tryReadAgreesWithRead
      case .takesReadsPastTheEnd: .requestsPastTheEndFail
      case .takesMisalignedRequests: .misalignedAndTooLongRequestsFail
      case .staysOpen: .closedDeviceRefusesEverything
      case .staysWritable: .readOnlyDeviceRefusesChanges
      case .keepsBytesPastTheEnd: .resizeNeverShowsOldBytes
      case .interleavesReadModifyWrite: .concurrentRequestsKeepToTheirRanges
      case .losesEverythingOnClose: .flushedContentsOutliveReopening
      }
    }
  }

  private let next: MemoryDevice
  private let defect: Defect
  private var visibleByteCount: UInt64

  init(_ defect: Defect, _ next: MemoryDevice) {
    self.defect = defect
    self.next = next
    visibleByteCount = next.byteCount
  }

  var imageAfterClose: SparseImage {
    defect == .losesEverythingOnClose ? SparseImage(byteCount: next.byteCount) : next.image
  }
  var byteCount: UInt64 { visibleByteCount }
  var limits: BlockLimits {
    defect == .takesMisalignedRequests ? BlockLimits(requestAlignment: 512) : next.limits
  }
  var isReadOnly: Bool { defect == .staysWritable || next.isReadOnly }

  func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    try check(.read, at: offset, length: UInt64(buffer.byteCount))
    if defect == .triesReadStaleBytes { return true }
    return try next.tryRead(into: &buffer, at: offset)
  }

  nonisolated(nonsending)
    func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError)
  {
    if defect == .takesReadsPastTheEnd, offset >= byteCount { return buffer.zero() }
    try check(.read, at: offset, length: UInt64(buffer.byteCount))
    if defect == .readsLongRequestsAsZero, buffer.byteCount > 512 {
      buffer.zero()
      return
    }
    try await next.read(into: &buffer, at: offset)
  }

  nonisolated(nonsending)
    func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError)
  {
    if defect != .staysWritable { try check(.write, at: offset, length: UInt64(bytes.byteCount)) }
    switch defect {
    case .losesTheLastSector where bytes.byteCount > 512 && bytes.byteCount % 4096 != 0:
      try await next.write(bytes.extracting(0..<bytes.byteCount - 512), at: offset, options: options)
    case .interleavesReadModifyWrite where isInsideOneBlock(offset, bytes.byteCount):
      let start = offset / 4096 * 4096
      var block = try await next.readBytes(4096, at: start)
      for index in 0..<bytes.byteCount {
        block[Int(offset - start) + index] = bytes.unsafeLoad(fromByteOffset: index, as: UInt8.self)
      }
      try await next.writeBytes(block, at: start)
    default:
      try await next.write(bytes, at: offset, options: options)
    }
  }

  nonisolated(nonsending)
    func writeZeroes(_ range: ByteRange, options: ZeroOptions) async throws(BlockError)
  {
    if defect == .ignoresZeroes, range.length < 4096 { return }
    try check(.writeZeroes, at: range.offset, length: range.length)
    try await next.writeZeroes(defect == .zeroesWholeBlocks ? widened(range) : range, options: options)
  }

  nonisolated(nonsending)
    func discard(_ range: ByteRange) async throws(BlockError)
  {
    try check(.discard, at: range.offset, length: range.length)
    try await next.discard(defect == .discardsWholeBlocks ? widened(range) : range)
  }

  nonisolated(nonsending)
    func flush() async throws(BlockError)
  { try await next.flush() }

  nonisolated(nonsending)
    func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent]
  {
    try check(.blockStatus, at: range.offset, length: range.length)
    guard !range.isEmpty else { return [] }
    switch defect {
    case .callsEverythingZero:
      return [Extent(range: range, status: .zero, depth: 1)]
    case .splitsExtents where limit > 1 && range.length > 1:
      let middle = range.offset + range.length / 2
      return [
        Extent(range: ByteRange(range.offset..<middle), status: [], depth: 1),
        Extent(range: ByteRange(middle..<range.end), status: [], depth: 1),
      ]
    case .startsStatusAtTheBlock:
      return try await next.blockStatus(ByteRange(range.offset / 4096 * 4096..<range.end), limit: limit)
    case .exceedsTheLimit:
      return try await next.blockStatus(range, limit: limit + 1)
    default:
      return try await next.blockStatus(range, limit: limit)
    }
  }

  nonisolated(nonsending)
    func resize(to byteCount: UInt64) async throws(BlockError)
  {
    if next.isClosed || next.isReadOnly { return try await next.resize(to: byteCount) }
    if defect != .keepsBytesPastTheEnd || byteCount > next.byteCount { try await next.resize(to: byteCount) }
    visibleByteCount = byteCount
  }

  nonisolated(nonsending)
    func close() async throws(BlockError)
  {
    if defect != .staysOpen { try await next.close() }
  }

  private func check(_ operation: BlockError.Operation, at offset: UInt64, length: UInt64) throws(BlockError) {
    if defect != .takesMisalignedRequests { try checkRequest(operation, at: offset, length: length) }
  }

  private func isInsideOneBlock(_ offset: UInt64, _ count: Int) -> Bool {
    let blockEnd = (offset / 4096 + 1) * 4096
    return count > 0 && blockEnd <= byteCount && offset + UInt64(count) < blockEnd
  }

  private func widened(_ range: ByteRange) -> ByteRange {
    guard !range.isEmpty else { return range }
    let wide = range.aligned(to: 4096)
    return ByteRange(wide.offset..<min(wide.end, byteCount))
  }
}
