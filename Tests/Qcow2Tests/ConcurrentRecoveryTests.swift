import BlockCore
import BlockTesting
import Testing

@testable import Qcow2

/// Power goes while many requests are in flight.
@Suite struct ConcurrentRecoveryTests {
  /// What one task wrote to its own kilobytes: what is durable for certain, and all that may be there.
  private final class Lane: @unchecked Sendable {
    // Safe to hand over: confined to the test's loop.
    let number: Int
    var durable: [UInt64: UInt8] = [:]
    var unflushed: [(offset: UInt64, byte: UInt8)] = []

    init(_ number: Int) { self.number = number }

    nonisolated(nonsending)
      func run(_ image: Qcow2Image, _ random: SeededRandom) async throws
    {
      var random = random
      for _ in 0..<12 {
        let offset = UInt64(random.below(24) * 8 + number) * 1024
        let kind = random.below(6)
        let byte = kind == 0 ? 0 : UInt8(1 + random.below(255))
        unflushed.append((offset, byte))
        switch kind {
        case 0: try await image.writeZeroes(ByteRange(offset: offset, length: 1024), options: .mayUnmap)
        case 1:
          try await image.writeBytes([UInt8](repeating: byte, count: 1024), at: offset, options: .forceUnitAccess)
          durable[offset] = byte
          unflushed.removeAll { $0.offset == offset }
        default: try await image.writeBytes([UInt8](repeating: byte, count: 1024), at: offset)
        }
        guard random.oneIn(3) else { continue }
        try await image.flush()
        for (offset, byte) in unflushed { durable[offset] = byte }
        unflushed = []
      }
    }

    /// The bytes that a kilobyte of this lane may hold.
    func allowed(_ offset: UInt64) -> Set<UInt8> {
      var allowed = Set(unflushed.filter { $0.offset == offset }.map(\.byte))
      allowed.insert(durable[offset] ?? 0)
      return allowed
    }
  }

  @Test(arguments: [512, 4096, 16384])
  func cutAmidConcurrentRequestsLosesNothingFlushed(clusterByteCount: Int) async throws {
    var call = 3
    var isOver = false
    while !isOver {
      isOver = try await !cut(atCall: call, clusterByteCount)
      call += 7
    }
    #expect(call > 60)
  }

  /// Returns false if the story ended before power went.
  private func cut(atCall call: Int, _ clusterByteCount: Int) async throws -> Bool {
    let home = LoopActor()
    let (device, image) = try await home.run { _ in
      let memory = MemoryDevice(byteCount: 0)
      try await Qcow2Image.create(
        on: memory, options: .init(virtualByteCount: 192 << 10, clusterByteCount: clusterByteCount))
      var options = MemoryDevice.Options()
      options.interleavingSeed = UInt64(call)
      let device = CrashPointDevice(memory.image, options: options)
      device.crash(atCall: call)
      return (device, try await openImage(device, cacheByteCount: 32 << 10))
    }
    let lanes = (0..<8).map { Lane($0) }
    await withTaskGroup { group in
      for lane in lanes {
        group.addTask {
          try? await home.run { _ in try await lane.run(image, SeededRandom(seed: UInt64(call * 10 + lane.number))) }
        }
      }
    }
    return try await home.run { _ in
      for (number, disk) in device.durableImages(seed: UInt64(call), count: 3).enumerated() {
        let found = try await openImage(disk, isReadOnly: true)
        let report = try await found.check()
        guard report.corruptionCount == 0 else {
          throw ConformanceFailure("cut at call \(call), disk \(number): \(report)")
        }
        let bytes = try await found.readAll()
        for start in stride(from: 0, to: bytes.count, by: 512) {
          let offset = UInt64(start / 1024 * 1024)
          let allowed = lanes[start / 1024 % 8].allowed(offset)
          guard bytes[start..<start + 512].allSatisfy({ $0 == bytes[start] }), allowed.contains(bytes[start]) else {
            throw ConformanceFailure("cut at call \(call), disk \(number): \(bytes[start]) at \(start), not \(allowed)")
          }
        }
      }
      return device.isCut
    }
  }

  @Test(arguments: [512, 65536])
  func forcedWriteIsDurableWhenItReturns(clusterByteCount: Int) async throws {
    try await LoopActor().run { _ in
      let memory = MemoryDevice(byteCount: 0)
      try await Qcow2Image.create(
        on: memory, options: .init(virtualByteCount: 1 << 20, clusterByteCount: clusterByteCount))
      let device = CrashPointDevice(memory.image)
      let image = try await openImage(device)
      var model = ByteModel(byteCount: 1 << 20)
      // To new clusters, in place with the mapping not yet durable, in place with it durable.
      for (offset, options) in [
        (UInt64(0), WriteOptions.forceUnitAccess), (1024, []), (1024, .forceUnitAccess), (1024, .forceUnitAccess),
      ] {
        let bytes = [UInt8](repeating: UInt8(truncatingIfNeeded: device.changingCalls + 1), count: 1024)
        try await image.writeBytes(bytes, at: offset, options: options)
        model.write(bytes, at: offset)
        guard options.contains(.forceUnitAccess) else { continue }
        for disk in device.durableImages(seed: 1) {
          let found = try await openImage(disk, isReadOnly: true)
          try await model.check(found, "after a forced write at \(offset)")
        }
      }
      try await image.writeZeroes(ByteRange(offset: 0, length: 1 << 19), options: .forceUnitAccess)
      model.zero(ByteRange(offset: 0, length: 1 << 19))
      for disk in device.durableImages(seed: 1) {
        try await model.check(try await openImage(disk, isReadOnly: true), "after forced zeroes")
      }
    }
  }
}
