import BlockCore
import BlockTesting
import Engine
import Foundation
import Model
import ModelTesting
import Repositories
import Testing

/// The pure parts of a copy, and the names of backing files.
struct CopyPartsTests {
  @Test func chunksCoverTheDeviceInOrderAndReadAllThatIsntZero() async throws {
    for seed: UInt64 in 1...8 {
      var random = SeededRandom(seed: seed)
      let byteCount = UInt64(9 << 20) + UInt64(random.below(70_000))
      let device = MemoryDevice(byteCount: byteCount)
      for _ in 0..<12 {
        let range = random.range(within: byteCount, alignment: 1, maximum: 900_000, near: 65536)
        let bytes = [UInt8](repeating: 0xEE, count: Int(range.upperBound - range.lowerBound))
        try await device.writeBytes(bytes, at: range.lowerBound)
      }
      let content = try await device.readAll()
      let all = ByteRange(0..<byteCount)
      var plan = CopyPlan(BlockStatusRegions(device, all), byteCount: byteCount)
      var position: UInt64 = 0
      while let step = try await plan.next({}) {
        let range = step.range
        #expect(range.offset == position && !range.isEmpty && range.offset % 65536 == 0, "\(random)")
        #expect(range.end % 65536 == 0 || range.end == byteCount)
        switch step.action {
        case .copy: #expect(range.offset / (1 << 20) == (range.end - 1) / (1 << 20))
        case .zero:
          #expect(content[Int(range.offset)..<Int(range.end)].allSatisfy { $0 == 0 }, "\(random)")
        case .skip: Issue.record("nothing is left out")
        }
        position = range.end
      }
      #expect(position == byteCount)
    }
  }

  @Test func depthRisesWhileItPaysAndStaysInBounds() {
    var depth = AdaptiveDepth(now: 0)
    var now = 0.0
    // Throughput grows with the depth up to 8.
    for _ in 0..<4000 {
      now += 1 / Double(min(depth.depth, 8))
      depth.completed(byteCount: 1 << 20, now: now)
      #expect((AdaptiveDepth.minimum...AdaptiveDepth.maximum).contains(depth.depth))
    }
    #expect(depth.depth >= 4)
    // Now only one at a time gets through, and more only wait.
    for _ in 0..<4000 {
      now += 1 + Double(depth.depth) / 8
      depth.completed(byteCount: 1 << 20, now: now)
    }
    #expect(depth.depth <= 4)
  }

  @Test func speedLimitIsHeldOnAverage() {
    var limit = SpeedLimit()
    var now = 100.0
    for _ in 0..<50 {
      now += limit.delay(limit: 1000, now: now)
      limit.pass(100, now: now)
    }
    #expect(abs(now - 104.9) < 0.001)
    #expect(limit.delay(limit: 0, now: now) == 0)
    limit.pass(1 << 40, now: now)
    #expect(limit.delay(limit: 1000, now: now) == 0)
  }

  @Test func backingNamesAreJudgedByTheirText() throws {
    for name in ["json:{}", "nbd://x", "file:a", "http://x/y", "a:b", ""] {
      #expect(throws: DomainError.self, "\(name)") { try BackingName(name, format: "raw", in: "x") }
    }
    #expect(throws: DomainError.self) { try BackingName("base", format: nil, in: "x") }
    #expect(throws: DomainError.self) { try BackingName("base", format: "vdi", in: "x") }
    #expect(try BackingName("./a:b", format: "raw", in: "x").joined(to: "/i/vm.qcow2") == "/i/./a:b")
    #expect(try BackingName("/b/c", format: "qcow2", in: "x").joined(to: "/i/vm.qcow2") == "/b/c")
  }
}
