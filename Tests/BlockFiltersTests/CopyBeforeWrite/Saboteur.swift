import BlockCore
import BlockFilters
import BlockTesting
import Buffers

/// Uses the filter below it wrongly.
final class Saboteur: BlockFilter, @unchecked Sendable {
  // Safe to hand over: confined to the story's loop.

  private let filter: CopyBeforeWrite
  private let mistake: CopyBeforeWriteStory.Mistake
  var next: any BlockDevice { filter }

  init(_ mistake: CopyBeforeWriteStory.Mistake, before filter: CopyBeforeWrite) {
    self.mistake = mistake
    self.filter = filter
  }

  nonisolated(nonsending)
    func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError)
  {
    let end = offset + UInt64(bytes.byteCount)
    let last = max(offset, (end - 1) / 4096 * 4096)
    guard mistake == .lastGrainIsLeftOut, last > offset else {
      return try await filter.write(bytes, at: offset, options: options)
    }
    let middle = Int(last - offset)
    try await filter.write(bytes.extracting(0..<middle), at: offset, options: options)
    try await filter.next.write(bytes.extracting(middle..<bytes.byteCount), at: last, options: options)
  }

  nonisolated(nonsending)
    func change(
      _ kind: BlockChange, _ range: ByteRange,
      _ perform: nonisolated(nonsending) (ByteRange) async throws(BlockError) -> Void
    ) async throws(BlockError)
  {
    switch (kind, mistake) {
    case (.discard, .discardsPass): try await filter.next.discard(range)
    case (.writeZeroes(let options), .zeroesPass): try await filter.next.writeZeroes(range, options: options)
    default: try await perform(range)
    }
  }
}

/// Reads the bytes beside those that are asked for.
final class ShiftedDevice: BlockFilter, @unchecked Sendable {
  // Safe to hand over: confined to the story's loop.
  let next: any BlockDevice

  init(_ next: any BlockDevice) { self.next = next }

  func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool { false }

  nonisolated(nonsending)
    func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError)
  { try await next.read(into: &buffer, at: offset ^ 4096) }

  nonisolated(nonsending)
    func change(
      _ kind: BlockChange, _ range: ByteRange,
      _ perform: nonisolated(nonsending) (ByteRange) async throws(BlockError) -> Void
    ) async throws(BlockError)
  { try await perform(range) }
}
