import Bitmaps
import BlockCore

/// Has every change recorded where a crash leaves it, before the change is submitted: in a map that a killed process
/// leaves, and in a log that a power loss leaves.
///
/// A change in a region that the log has passes at once. Where the log can't be written, the guest's interest decides: its
/// write goes on, once it is durable that the record doesn't count any more. Only where that can't be done either, which
/// takes a failure of the image itself, does the change fail.
///
/// It stands below the slot's hold: a change that waits for the log is in flight.
package final class WriteIntent: BlockFilter, @unchecked Sendable {
  // Safe to hand over: confined to its loop, like every device.

  package let next: any BlockDevice
  private let map: RecordingMap
  private let log: WriteIntentLog
  private let now: @Sendable () -> Int64
  private let giveUp: (BlockError) async throws(BlockError) -> Void
  /// True once the record doesn't count any more.
  package private(set) var isOver = false

  /// - Parameters:
  ///   - now: seconds since 1970, quickly.
  ///   - giveUp: makes it durable that the record doesn't count any more, and why. It may be called more than once.
  package init(
    _ next: any BlockDevice, map: RecordingMap, log: WriteIntentLog, now: @escaping @Sendable () -> Int64,
    giveUp: @escaping (BlockError) async throws(BlockError) -> Void
  ) {
    self.next = next
    self.map = map
    self.log = log
    self.now = now
    self.giveUp = giveUp
  }

  package func tryBegin(_ kind: BlockChange, _ range: ByteRange) -> Bool {
    guard !isOver else { return false }
    if case .resize = kind { return false }
    guard log.tryBegin(range) else { return false }
    record(range)
    return true
  }

  package func ended(_ kind: BlockChange, _ range: ByteRange) {
    log.ended(range)
    map.lastChange = now()
  }

  package func change(
    _ kind: BlockChange, _ range: ByteRange, _ perform: (ByteRange) async throws(BlockError) -> Void
  ) async throws(BlockError) {
    if !isOver, try await begin(kind, range) {
      defer { ended(kind, range) }
      return try await perform(range)
    }
    try await perform(range)
  }

  /// - Returns: false if the record is over: then the change is made all the same.
  private func begin(_ kind: BlockChange, _ range: ByteRange) async throws(BlockError) -> Bool {
    do throws(BlockError) {
      if case .resize = kind { throw BlockError(.notSupported, .resize, cause: "the disk's size changes") }
      try await log.begin(range)
      record(range)
      return true
    } catch {
      try await giveUp(error)
      isOver = true
      return false
    }
  }

  private func record(_ range: ByteRange) {
    map.set(range)
    map.lastChange = now()
  }

  package func flush() async throws(BlockError) {
    // Flushing writes back what the image's format keeps in memory.
    if !isOver { map.lastChange = now() }
    defer { if !isOver { map.lastChange = now() } }
    try await next.flush()
  }
}
