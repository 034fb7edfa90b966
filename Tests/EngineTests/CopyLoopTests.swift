import BlockCore
import BlockTesting
import Engine
import EventLoops
import Model
import ModelTesting
import Repositories
import Testing

/// What a copy promises its sink.
struct CopyLoopTests {
  private static let chunkCount: UInt64 = 12
  /// Each chunk begins with data in its first grain, and the last one has no other.
  private static let byteCount = ((chunkCount - 1) << 20) + UInt64(HashTree.grainByteCount)

  @Test func chunksAreAdmittedOnceAndStoredBesideEachOther() async throws {
    let control = RecordingJobControl()
    let sink = try await copy(control, failingAt: nil)
    #expect(sink.admitted.sorted() == (0..<Self.chunkCount).map { $0 << 20 })
    #expect(sink.stored.count == Int(Self.chunkCount))
    // The first chunk waited for the others to get on, and nothing counted as done before it was.
    #expect(sink.stored.first != 0)
    #expect(sink.doneBeforeFirst == 0)
    #expect(control.reports.last?.done == Self.byteCount)
  }

  @Test func failedStoreEndsTheCopy() async throws {
    let control = RecordingJobControl()
    await #expect(throws: DomainError.self) { try await copy(control, failingAt: 1 << 20) }
    #expect(control.reports.allSatisfy { $0.done <= 1 << 20 })
  }

  private func copy(_ control: RecordingJobControl, failingAt offset: UInt64?) async throws -> OrderSink {
    let group = try EventLoopGroup(count: 1, workerCount: 2)
    let loop = group.next()
    let result: Result<OrderSink, any Error>
    do {
      result = .success(
        try await loop.run {
          let device = MemoryDevice(byteCount: Self.byteCount)
          for chunk in 0..<Self.chunkCount { try await device.writeBytes([1], at: chunk << 20) }
          let sink = OrderSink(loop, control, failingAt: offset)
          let copy = CopyLoop(
            on: loop, from: device, byteCount: device.byteCount, to: sink, work: InlineWork(), control: control
          ) { _ in DomainError(.backupCorrupt, "unexpected", remedy: "") }
          try await copy.run()
          return sink
        })
    } catch {
      result = .failure(error)
    }
    await group.shutdown()
    return try result.get()
  }
}

/// Notes the order of what it is told, and keeps the first chunk until another is stored.
private final class OrderSink: CopySink, @unchecked Sendable {
  // Safe to hand over: confined to the loop, and looked at when the copy is over.
  private let loop: EventLoop
  private let control: RecordingJobControl
  private let failing: UInt64?
  private(set) var admitted: [UInt64] = []
  private(set) var stored: [UInt64] = []
  private(set) var doneBeforeFirst: UInt64?

  init(_ loop: EventLoop, _ control: RecordingJobControl, failingAt offset: UInt64?) {
    self.loop = loop
    self.control = control
    failing = offset
  }

  nonisolated(nonsending)
    func admit(_ chunk: Chunk) async throws
  {
    if chunk.step.action == .copy { admitted.append(chunk.range.offset) }
  }

  nonisolated(nonsending)
    func store(_ chunk: Chunk) async throws
  {
    guard chunk.step.action == .copy else { return }
    let offset = chunk.range.offset
    if offset == failing { throw DomainError(.backupCorrupt, "planned", remedy: "") }
    if offset == 0, failing == nil {
      for _ in 0..<6000 where stored.isEmpty { try await loop.sleep(for: .milliseconds(5)) }
      doneBeforeFirst = control.reports.last?.done
    }
    stored.append(offset)
  }
}
