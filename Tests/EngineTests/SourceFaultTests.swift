import BlockCore
import BlockTesting
import Engine
import EventLoops
import Glibc
import Model
import ModelTesting
import Testing

/// An image that can't be read to its end.
struct SourceFaultTests {
  /// Adds up what came.
  private final class RecordingSink: CopySink, @unchecked Sendable {
    // Safe to hand to the copy: both are confined to one loop.
    private(set) var byteCount: UInt64 = 0
    private var offsets = Set<UInt64>()

    nonisolated(nonsending)
      func admit(_ chunk: Chunk) async throws
    {
      #expect(offsets.insert(chunk.range.offset).inserted, "chunks come once")
      byteCount += chunk.range.length
    }

    nonisolated(nonsending)
      func store(_ chunk: Chunk) async throws
    {}
  }

  @Test(arguments: TestEngine.backends)
  func sourceThatFailsAtAnyCallEndsTheCopyWithTheCause(backend: IOBackend) async throws {
    let test = try await TestEngine(backend: backend)
    defer { test.removeFolder() }
    let loop = test.group.next()
    try await loop.run {
      let byteCount: UInt64 = 5 << 20
      let image = MemoryDevice(byteCount: byteCount)
      for offset in stride(from: 0, to: byteCount, by: 300_000) {
        try await image.writeBytes([UInt8](repeating: 0xA5, count: 70_000), at: min(offset, byteCount - 70_000))
      }
      try await forEachFault(limit: 200) { call in
        let source = FaultyDevice(image, fault: .init(atCall: call, .io(errno: EIO), .fromThenOn))
        let sink = RecordingSink()
        let copy = CopyLoop(
          on: loop, from: source, byteCount: byteCount, to: sink, work: InlineWork(), control: RecordingJobControl(),
          describe: { DomainError(.ioError, "the source: \($0)") })
        do {
          try await copy.run()
          #expect(!source.wasHit && sink.byteCount == byteCount)
        } catch let error as DomainError {
          let isTold = error.code == .ioError && error.detail.hasPrefix("the source:")
          #expect(source.wasHit && isTold && sink.byteCount < byteCount)
        }
        return source.wasHit
      }
    }
  }
}
