import BlockCore
import BlockTesting
import Buffers

/// Keeps back requests of some kinds, which came while they were shut out, until the gate is opened. Counts all that come.
final class GateDevice: BlockFilter, @unchecked Sendable {
  // Safe to hand over: confined to its loop.

  let next: any BlockDevice
  var shut: Set<BlockError.Operation> = []
  /// Reads are kept back with the bytes that they have read.
  var isLate = false
  private(set) var calls = CallCounts()
  private(set) var readByteCount = 0
  private var waiting: [UnsafeContinuation<Void, Never>] = []

  init(_ next: any BlockDevice) { self.next = next }

  var waitingCount: Int { waiting.count }

  func open() {
    shut = []
    let all = waiting
    waiting = []
    for waiter in all { waiter.resume() }
  }

  func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool { false }

  func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError) {
    readByteCount += buffer.byteCount
    if !isLate { await pass(.read) }
    try await next.read(into: &buffer, at: offset)
    if isLate { await pass(.read) }
  }

  func change(
    _ kind: BlockChange, _ range: ByteRange, _ perform: (ByteRange) async throws(BlockError) -> Void
  ) async throws(BlockError) {
    await pass(kind.operation)
    try await perform(range)
  }

  private func pass(_ operation: BlockError.Operation) async {
    calls.count(operation)
    if shut.contains(operation) { await withUnsafeContinuation { waiting.append($0) } }
  }
}
