import Bitmaps
import BlockCore
import Buffers
import Failures
import Model
import Repositories

/// A backup's disk for its readers: each leaf is held against the backup's hashes before a byte of it is given out.
///
/// C1. The first read of a leaf reads all of it, has it hashed on the worker pool, and gives out the bytes that were
///     hashed. Once they were right, reads of the leaf go straight to the data, at the cost of one look into a bitmap.
/// C2. A leaf that is wrong fails each read that needs it with `corrupt`, and no other read. It is looked at again each
///     time: it may be right by then. The same goes for a page of hashes that is damaged. Storage that fails says nothing
///     about the backup: the read fails, and no damage is told.
/// C3. Where the data are known to read as zeroes, nothing is read or hashed: the tree has to say the same.
/// C4. Status says zero only where the hashes do: a client that skips zeroes skips nothing that was backed up. A leaf that
///     is zero in parts counts as data.
/// C5. Each damaged place is told once, up to a bound, and no reader waits for that.
///
/// “First” counts from the opening: another one reads the files anew, and checks them anew.
package final class CheckedBackup: BlockFilter, @unchecked Sendable {
  // Safe to hand over: confined to its loop, like every device.

  package let next: any BlockDevice
  private let reader: HashTreeReader
  private let comparison: HashComparison
  private let hashes: any BlockDevice
  private let work: any BackgroundWork
  private let report: @Sendable (MetDamage) -> Void
  /// Dirty is what was found to be right.
  private var checked: DirtyBitmap
  /// Held by the first read of a leaf, and of all by closing.
  private let firstReads = RangeLock()
  /// Of the hashes, which answer one call at a time.
  private let lookups = RangeLock()
  private var idleChunks: [Chunk] = []
  private var told: Set<UInt64> = []
  private var isClosed = false

  /// What is read and hashed at once, at most: what one reply of an export carries.
  private static let geometry = ChunkGeometry(chunk: 256 << 10)
  /// Chunks that wait for the next first read.
  private static let idleChunkCount = 4
  /// Damages that one opening tells.
  private static let toldCount = 64
  /// Leaves that one call looks at for where zeroes end.
  private static let leavesPerStatus: UInt64 = 1 << 12

  /// - Parameters:
  ///   - data: exactly the guest's disk; takes any request.
  ///   - hashes: of the backup, with the device to close with this one.
  ///   - names: what a person knows the files by.
  ///   - report: is told of damage, on the loop; must not wait.
  package init(
    _ data: any BlockDevice, against hashes: (reader: HashTreeReader, device: any BlockDevice),
    names: (data: String, hashes: String), work: any BackgroundWork, report: @Sendable @escaping (MetDamage) -> Void
  ) {
    precondition(data.byteCount == hashes.reader.tree.byteCount && data.limits.requestAlignment == 1)
    next = data
    reader = hashes.reader
    comparison = HashComparison(hashes.reader, dataName: names.data, hashesName: names.hashes)
    self.hashes = hashes.device
    self.work = work
    self.report = report
    checked = .ofGrains(byteCount: data.byteCount)
  }

  package var isReadOnly: Bool { true }

  // MARK: Reads

  package func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    let length = UInt64(buffer.byteCount)
    if isClosed { throw BlockError(.closed, .read) }
    try checkRequest(.read, at: offset, length: length)
    guard checked.containsAll(of: ByteRange(offset: offset, length: length)) else { return false }
    return try next.tryRead(into: &buffer, at: offset)
  }

  nonisolated(nonsending)
    package func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError)
  {
    try checkRequest(.read, at: offset, length: UInt64(buffer.byteCount))
    let end = offset + UInt64(buffer.byteCount)
    var position = offset
    repeat {
      let piece = piece(at: position, upTo: end)
      var part = buffer.part(Int(position - offset)..<Int(piece.range.end - offset))
      if piece.isChecked {
        try await readChecked(into: &part, at: position)
      } else {
        try await readFirst(piece.range, into: &part)
      }
      position = piece.range.end
    } while position < end
  }

  /// From `position` on what is checked, or what isn't and fits a chunk. Of nothing the data may judge.
  private func piece(at position: UInt64, upTo end: UInt64) -> (range: ByteRange, isChecked: Bool) {
    let stretch = checked.nextDirty(from: position, before: end)
    if let stretch, stretch.offset <= position { return (ByteRange(position..<min(stretch.end, end)), true) }
    let chunk = UInt64(Self.geometry.chunk)
    let last = min(stretch?.offset ?? end, end, (position / chunk + 1) * chunk)
    return (ByteRange(position..<last), position == end)
  }

  nonisolated(nonsending)
    private func readChecked(into part: inout MutableRawSpan, at offset: UInt64) async throws(BlockError)
  {
    do throws(BlockError) {
      try await next.read(into: &part, at: offset)
    } catch {
      throw noting(error, ByteRange(offset: offset, length: UInt64(part.byteCount)))
    }
  }

  nonisolated(nonsending)
    private func readFirst(_ range: ByteRange, into part: inout MutableRawSpan) async throws(BlockError)
  {
    let aligned = range.aligned(to: checked.granularity)
    let whole = ByteRange(aligned.offset..<min(aligned.end, byteCount))
    let hold = await firstReads.acquire(whole, .exclusive)
    defer { firstReads.release(hold) }
    if isClosed { throw BlockError(.closed, .read, range) }
    // Another request may have been the first.
    if checked.containsAll(of: whole) { return try await readChecked(into: &part, at: range.offset) }
    let chunk = idleChunks.popLast() ?? Chunk(Self.geometry)
    defer { if idleChunks.count < Self.idleChunkCount { idleChunks.append(chunk) } }
    let action: CopyStep.Action = try await readsAsZero(whole) ? .zero : .copy
    try await chunk.begin(CopyStep(range: whole, action: action), from: next)
    if action == .copy { await work.run { chunk.process(nil) } }
    let differences = try await differences(in: chunk)
    noteSound(whole, but: differences.map(\.range))
    for difference in differences { tell(difference.range, comparison.describe(difference)) }
    if let difference = differences.first(where: { $0.range.overlaps(range) }) {
      throw BlockError(.corrupt(comparison.describe(difference)), .read, difference.range)
    }
    guard action == .copy else { return part.zero() }
    let start = Int(range.offset - whole.offset)
    part.copy(from: chunk.bytes.extracting(start..<start + Int(range.length)))
  }

  nonisolated(nonsending)
    private func readsAsZero(_ range: ByteRange) async throws(BlockError) -> Bool
  {
    do throws(BlockError) {
      let first = try await next.blockStatus(range, limit: 1).first
      return first.map { $0.readsAsZero && $0.range.end >= range.end } ?? false
    } catch {
      // What can't be told is read, leaf by leaf.
      if case .corrupt = error.kind { return false }
      throw error
    }
  }

  nonisolated(nonsending)
    private func differences(in chunk: Chunk) async throws(BlockError) -> [HashComparison.Difference]
  {
    let hold = await lookups.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { lookups.release(hold) }
    do {
      return try await comparison.differences(in: chunk)
    } catch {
      throw noting(BlockError(any: error, .read, chunk.range), chunk.range)
    }
  }

  /// - Parameter differences: in order.
  private func noteSound(_ whole: ByteRange, but differences: [ByteRange]) {
    var start = whole.offset
    for difference in differences {
      let wrong = difference.aligned(to: checked.granularity)
      if wrong.offset > start { checked.set(ByteRange(start..<wrong.offset)) }
      start = max(start, wrong.end)
    }
    if start < whole.end { checked.set(ByteRange(start..<whole.end)) }
  }

  // MARK: Status

  nonisolated(nonsending)
    package func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent]
  {
    let found: [Extent]
    do throws(BlockError) {
      found = try await next.blockStatus(range, limit: limit)
    } catch {
      throw noting(error, range)
    }
    guard found.contains(where: \.readsAsZero) else { return found }
    let hold = await lookups.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { lookups.release(hold) }
    if isClosed { throw BlockError(.closed, .blockStatus, range) }
    var (extents, leavesLeft) = ([Extent](), Self.leavesPerStatus)
    for extent in found {
      var position = extent.range.offset
      while position < extent.range.end {
        let part = try await part(of: extent, from: position)
        if extents.count >= max(limit, 1), let last = extents.last, !last.continues(with: part) { return extents }
        extents.appendMerging(part)
        position = part.range.end
        leavesLeft -= 1
        if leavesLeft == 0 { return extents }
      }
    }
    return extents
  }

  /// The longest part of the extent from `position` on that is of one kind, as far as the next leaf that holds data.
  nonisolated(nonsending)
    private func part(of extent: Extent, from position: UInt64) async throws(BlockError) -> Extent
  {
    let rest = ByteRange(position..<extent.range.end)
    let leaves = Self.geometry.leaves(of: rest.aligned(to: UInt64(Self.geometry.grain)))
    guard extent.readsAsZero else { return Extent(range: rest, status: extent.status, depth: extent.depth) }
    let first: UInt64?
    do throws(HashTreeReader.Failure) {
      first = try await reader.firstDataLeaf(in: leaves)
    } catch {
      throw noting(BlockError(any: DomainError(error, of: comparison.hashesName), .blockStatus, rest), rest)
    }
    guard let first else { return Extent(range: rest, status: extent.status, depth: extent.depth) }
    let leaf = reader.tree.grain(first)
    guard leaf.lowerBound > position else {
      return Extent(range: ByteRange(position..<min(rest.end, leaf.upperBound)), status: [], depth: extent.depth)
    }
    return Extent(range: ByteRange(position..<leaf.lowerBound), status: extent.status, depth: extent.depth)
  }

  // MARK: Damage

  /// Tells of the error where it is about the backup. Returns it.
  private func noting(_ error: BlockError, _ range: ByteRange) -> BlockError {
    if case .corrupt(let text) = error.kind { tell(error.range ?? range, text) }
    return error
  }

  private func tell(_ range: ByteRange, _ text: String) {
    guard told.count < Self.toldCount, told.insert(range.offset).inserted else { return }
    report(MetDamage(range: range, text: text))
  }

  // MARK: The rest

  nonisolated(nonsending)
    package func change(
      _ kind: BlockChange, _ range: ByteRange,
      _ perform: nonisolated(nonsending) (ByteRange) async throws(BlockError) -> Void
    ) async throws(BlockError)
  { throw BlockError(.readOnly, kind.operation, range) }

  nonisolated(nonsending)
    package func close() async throws(BlockError)
  {
    let hold = await firstReads.acquire(ByteRange(offset: 0, length: .max), .exclusive)
    defer { firstReads.release(hold) }
    let lookup = await lookups.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { lookups.release(lookup) }
    if isClosed { return }
    isClosed = true
    idleChunks = []
    try? await hashes.close()
    try await next.close()
  }
}
