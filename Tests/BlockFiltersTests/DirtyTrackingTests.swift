import BlockCore
import BlockFilters
import BlockTesting
import Testing

/// Remembers what it was told, in order.
final class RangeRecorder: ChangeRecorder, @unchecked Sendable {
  // Safe to hand over: confined to its loop.
  private(set) var ranges: [ByteRange] = []

  func record(_ range: ByteRange) { ranges.append(range) }
}

/// A change is recorded before it is made, and whatever comes of it.
struct DirtyTrackingTests {
  /// A device that looks at what is recorded by the time that a request arrives.
  private final class Witness: BlockFilter, @unchecked Sendable {
    // Safe to hand over: confined to its loop.
    let next: any BlockDevice
    let recorder: RangeRecorder
    var unrecorded: [ByteRange] = []
    var error: BlockError?

    init(_ next: any BlockDevice, _ recorder: RangeRecorder) {
      self.next = next
      self.recorder = recorder
    }

    nonisolated(nonsending)
      func change(
        _ kind: BlockChange, _ range: ByteRange,
        _ perform: nonisolated(nonsending) (ByteRange) async throws(BlockError) -> Void
      ) async throws(BlockError)
    {
      if !recorder.ranges.contains(where: { $0.offset <= range.offset && $0.end >= range.end }) {
        unrecorded.append(range)
      }
      if let error { throw error }
      try await perform(range)
    }
  }

  @Test func everyKindOfChangeIsRecordedBeforeItIsMade() async throws {
    try await LoopActor().run { _ in
      let recorder = RangeRecorder()
      let witness = Witness(MemoryDevice(byteCount: 1 << 20), recorder)
      let device = Slot(DirtyTracking(witness, recorder: recorder))
      try await device.writeBytes([1, 2, 3], at: 5000)
      try await device.writeZeroes(ByteRange(offset: 8192, length: 4096), options: .mayUnmap)
      try await device.discard(ByteRange(offset: 65536, length: 512))
      try await device.resize(to: 2 << 20)
      try await device.resize(to: 1 << 20)
      _ = try await device.readBytes(100, at: 0)
      try await device.flush()
      let grown = ByteRange(offset: 1 << 20, length: 1 << 20)
      #expect(
        recorder.ranges == [
          ByteRange(offset: 5000, length: 3), ByteRange(offset: 8192, length: 4096),
          ByteRange(offset: 65536, length: 512), grown, grown,
        ])
      #expect(witness.unrecorded == [])
    }
  }

  @Test func whatFailsStaysRecorded() async throws {
    await LoopActor().run { _ in
      let recorder = RangeRecorder()
      let witness = Witness(MemoryDevice(byteCount: 1 << 20), recorder)
      let device = DirtyTracking(witness, recorder: recorder)
      witness.error = BlockError(.noSpace, .write)
      await #expect(throws: BlockError.self) { try await device.writeBytes([1], at: 77) }
      #expect(recorder.ranges == [ByteRange(offset: 77, length: 1)] && witness.unrecorded == [])
    }
  }
}
