import BlockCore

/// What is told of every change of a disk before it is made.
package protocol ChangeRecorder: AnyObject, Sendable {
  /// Notes that the range changes, or may come to read differently. On the disk's loop, and at once.
  func record(_ range: ByteRange)
}

/// Has every change recorded that passes, before the request goes down: what fails is recorded too, and what is recorded
/// stays so. Reads pass at once.
///
/// Of a resize what comes to be or ceases to be is recorded.
package final class DirtyTracking: BlockFilter, @unchecked Sendable {
  // Safe to hand over: confined to its loop, like every device.

  package var next: any BlockDevice
  private let recorder: any ChangeRecorder

  package init(_ next: any BlockDevice, recorder: any ChangeRecorder) {
    self.next = next
    self.recorder = recorder
  }

  package func tryBegin(_ kind: BlockChange, _ range: ByteRange) -> Bool {
    recorder.record(range)
    return true
  }

  package func change(
    _ kind: BlockChange, _ range: ByteRange, _ perform: (ByteRange) async throws(BlockError) -> Void
  ) async throws(BlockError) {
    recorder.record(range)
    try await perform(range)
  }
}
