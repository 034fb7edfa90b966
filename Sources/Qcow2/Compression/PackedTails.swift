import BlockCore
import Buffers

/// Ends of packed runs that don't fill a block of the device: each waits in memory for the bytes behind it.
///
/// Compressed clusters lie one behind the other at any byte. Written through a device that wants alignment, each run
/// would read the block that it shares with the run before, after that one's write has ended. So a run leaves its last,
/// incomplete block here, and the next run writes that block whole.
///
/// Confined to the image's loop.
final class PackedTails {
  /// Bytes that lie in one block.
  struct Tail {
    let offset: UInt64
    let bytes: [UInt8]
    fileprivate let ticket: UInt64
    /// The next run has it among its own bytes, and its write is in flight.
    fileprivate var isTaken = false

    var range: ByteRange { ByteRange(offset: offset, length: UInt64(bytes.count)) }

    /// Puts what of it lies in `buffer`, which begins at `start` of the file, into its place.
    func copy(into buffer: inout MutableRawSpan, at start: UInt64) {
      let whole = ByteRange(offset: start, length: UInt64(buffer.byteCount))
      guard let part = range.intersection(whole) else { return }
      let first = Int(part.offset - offset)
      buffer.copy(
        from: bytes.span.bytes.extracting(first..<first + Int(part.length)), at: Int(part.offset - start))
    }
  }

  /// Where runs don't follow one another, each leaves a tail. So many are kept at once, beside those in flight.
  static let maximumCount = 16

  /// 1: nothing is kept.
  let blockByteCount: Int
  private var tails: [Tail] = []
  private var nextTicket: UInt64 = 0

  init(blockByteCount: Int) { self.blockByteCount = blockByteCount }

  /// All of them, oldest first.
  var all: [Tail] { tails }
  /// The oldest, if there are too many.
  var surplus: Tail? { tails.count { !$0.isTaken } > Self.maximumCount ? tails.first { !$0.isTaken } : nil }

  func overlaps(_ range: ByteRange) -> Bool { tails.contains { $0.range.overlaps(range) } }

  func parts(of range: ByteRange) -> [Tail] { tails.isEmpty ? [] : tails.filter { $0.range.overlaps(range) } }

  func put(_ bytes: [UInt8], at offset: UInt64) {
    nextTicket += 1
    tails.append(Tail(offset: offset, bytes: bytes, ticket: nextTicket))
  }

  /// The one that ends at `offset`, for the run that begins there: it stays readable until its bytes are stored.
  func take(endingAt offset: UInt64) -> Tail? {
    guard let index = tails.firstIndex(where: { !$0.isTaken && $0.range.end == offset }) else { return nil }
    tails[index].isTaken = true
    return tails[index]
  }

  /// Its bytes weren't stored: it waits again.
  func putBack(_ tail: Tail) {
    guard let index = tails.firstIndex(where: { $0.ticket == tail.ticket }) else { return }
    tails[index].isTaken = false
  }

  /// Its bytes are stored.
  func remove(_ tail: Tail) { tails.removeAll { $0.ticket == tail.ticket } }

  /// What lies there is something else from here on.
  func forget(_ range: ByteRange) {
    if !tails.isEmpty { tails.removeAll { $0.range.overlaps(range) } }
  }
}

extension ImageFile {
  /// Writes bytes of compressed clusters behind others. A part of a block at their end may stay in memory until the next
  /// run or ``flush()``: until then it is read from there.
  func writePacked(_ bytes: RawSpan, at offset: UInt64) async throws(BlockError) {
    let run = ByteRange(offset: offset, length: UInt64(bytes.byteCount))
    try await prepare(run)
    let block = UInt64(tails.blockByteCount)
    guard block > 1 else { return try await device.write(bytes, at: offset) }
    let before = tails.take(endingAt: offset)
    let start = before?.offset ?? offset
    let end = max(start, run.end / block * block)
    if end < run.end {
      let kept = Int(run.end - max(end, offset))
      let rest = bytes.extracting(bytes.byteCount - kept..<bytes.byteCount).withUnsafeBytes { Array($0) }
      tails.put(end < offset ? (before?.bytes ?? []) + rest : rest, at: end)
    }
    do throws(BlockError) {
      if start < end { try await write(before, bytes, ByteRange(start..<end)) }
    } catch {
      tails.forget(run)
      if let before { tails.putBack(before) }
      throw error
    }
    if let before { tails.remove(before) }
    while let tail = tails.surplus { try await write(tail) }
  }

  /// Writes `range`, which begins with the bytes of a tail.
  private func write(_ before: PackedTails.Tail?, _ bytes: RawSpan, _ range: ByteRange) async throws(BlockError) {
    let head = before?.bytes.count ?? 0
    let count = Int(range.length)
    var joined = pool.take(count)
    var all = joined.mutableBytes
    if let before { all.copy(from: before.bytes.span.bytes) }
    all.copy(from: bytes.extracting(0..<count - head), at: head)
    try await device.write(joined.bytes.extracting(0..<count), at: range.offset)
  }

  /// Writes what waits. What a run in flight has taken is written here too: its first owner was answered.
  func writeTails() async throws(BlockError) {
    for tail in tails.all { try await write(tail) }
  }

  private func write(_ tail: PackedTails.Tail) async throws(BlockError) {
    try await device.write(tail.bytes.span.bytes, at: tail.offset)
    tails.remove(tail)
  }
}
