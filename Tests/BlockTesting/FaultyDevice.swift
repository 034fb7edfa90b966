import BlockCore
import Buffers
import Glibc

/// When and how a ``FaultyDevice`` fails.
package struct Fault: Sendable {
  package enum Persistence: Sendable { case once, fromThenOn }

  /// What a failing write or zeroing has done to the device below.
  package enum Effect: Sendable, CaseIterable {
    case nothing
    /// The first half, in whole sectors where there are several: a torn write.
    case prefix
    /// All of it; only the answer was lost.
    case everything
  }

  package static let allOperations: Set<BlockError.Operation> = [
    .read, .write, .writeZeroes, .discard, .flush, .blockStatus, .resize,
  ]
  package static let changingOperations: Set<BlockError.Operation> = [
    .write, .writeZeroes, .discard, .flush, .resize,
  ]

  /// Counted from 1 over the calls of `operations` alone. A `tryRead` counts as a read.
  package var call: Int
  package var operations: Set<BlockError.Operation>
  package var kind: BlockError.Kind
  package var persistence: Persistence
  package var effect: Effect

  package init(
    atCall call: Int, of operations: Set<BlockError.Operation> = Fault.allOperations,
    _ kind: BlockError.Kind = .io(errno: EIO), _ persistence: Persistence = .once, effect: Effect = .nothing
  ) {
    self.call = call
    self.operations = operations
    self.kind = kind
    self.persistence = persistence
    self.effect = effect
  }
}

/// Passes everything on to `next`, and fails where its fault says so.
///
/// To fail at each call once, run the same story with `atCall: 1, 2, …` until `wasHit` stays false;
/// see ``forEachFault(limit:_:)``.
package final class FaultyDevice: BlockFilter, @unchecked Sendable {
  // Safe to hand over: confined to its home loop, like every device.

  private static let sectorByteCount = 512

  package let next: any BlockDevice
  /// Changing it starts the count of calls anew.
  package var fault: Fault? {
    didSet { countedCalls = 0 }
  }
  /// Calls of the fault's operations so far.
  package private(set) var countedCalls = 0
  /// How often the fault struck.
  package private(set) var hits = 0
  package var wasHit: Bool { hits > 0 }

  package init(_ next: any BlockDevice, fault: Fault? = nil) {
    self.next = next
    self.fault = fault
  }

  package func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    if let failure = count(.read) { throw failure.error() }
    return try next.tryRead(into: &buffer, at: offset)
  }

  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError) {
    if let failure = count(.read) { throw failure.error(at: offset, buffer.byteCount) }
    try await next.read(into: &buffer, at: offset)
  }

  package func change(
    _ kind: BlockChange, _ range: ByteRange,
    _ perform: (ByteRange) async throws(BlockError) -> Void
  ) async throws(BlockError) {
    guard let failure = count(kind.operation) else { return try await perform(range) }
    if case .resize = kind {
      if failure.fault.effect == .everything { try await perform(range) }
    } else {
      let done = byteCountDone(of: range.length, failure)
      if done > 0 { try await perform(ByteRange(offset: range.offset, length: done)) }
    }
    throw failure.error(range)
  }

  package func flush() async throws(BlockError) {
    guard let failure = count(.flush) else { return try await next.flush() }
    if failure.fault.effect == .everything { try await next.flush() }
    throw failure.error()
  }

  package func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
    if let failure = count(.blockStatus) { throw failure.error(range) }
    return try await next.blockStatus(range, limit: limit)
  }

  /// A close that fails has closed all the same.
  package func close() async throws(BlockError) {
    let failure = count(.close)
    try await next.close()
    if let failure { throw failure.error() }
  }

  private struct Failure {
    let fault: Fault
    let operation: BlockError.Operation

    func error(_ range: ByteRange? = nil) -> BlockError {
      BlockError(fault.kind, operation, range, cause: "injected at call \(fault.call)")
    }

    func error(at offset: UInt64, _ byteCount: Int) -> BlockError {
      error(ByteRange(offset: offset, length: UInt64(byteCount)))
    }
  }

  private func count(_ operation: BlockError.Operation) -> Failure? {
    guard let fault, fault.operations.contains(operation) else { return nil }
    countedCalls += 1
    let isHit = fault.persistence == .once ? countedCalls == fault.call : countedCalls >= fault.call
    guard isHit else { return nil }
    hits += 1
    return Failure(fault: fault, operation: operation)
  }

  private func byteCountDone(of length: UInt64, _ failure: Failure) -> UInt64 {
    switch failure.fault.effect {
    case .nothing: return 0
    case .everything: return length
    case .prefix:
      let sector = UInt64(max(Self.sectorByteCount, limits.requestAlignment))
      if length >= 2 * sector { return length / 2 / sector * sector }
      return limits.requestAlignment == 1 ? length / 2 : 0
    }
  }
}

/// Runs `story` with 1, 2, 3, … as the call to fail at, until it answers that the fault wasn't met.
///
/// - Parameter limit: more calls than the story can need; reaching it throws, as the story would never end.
/// - Returns: how many calls were failed.
@discardableResult
package func forEachFault(
  limit: Int = 10_000, _ story: (_ call: Int) async throws -> Bool
) async throws -> Int {
  for call in 1...limit {
    if try await !story(call) { return call - 1 }
  }
  throw ConformanceFailure("the fault was still met at call \(limit)")
}
