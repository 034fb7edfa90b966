import BlockCore
import BlockTesting
import Descriptors
import EventLoops
import Foundation
import Testing

@testable import RawFile

@Suite struct InPlaceWritesTests {
  private static func time(_ milliseconds: UInt64) -> MonotonicTime {
    MonotonicTime(nanoseconds: 1_000_000_000 + milliseconds * 1_000_000)
  }

  @Test func slowWriteSendsTheNextOnesToTheWorkersForAPause() {
    var writes = InPlaceWrites(isLocal: true)
    #expect(writes.allows(byteCount: 4096, now: Self.time(0)))
    writes.took(from: Self.time(0), to: Self.time(2))
    #expect(!writes.allows(byteCount: 4096, now: Self.time(2)))
    #expect(!writes.allows(byteCount: 4096, now: Self.time(101)))
    #expect(writes.allows(byteCount: 4096, now: Self.time(102)))
  }

  @Test func pausesDoubleUpToTheLongestAndQuickWritesShortenThemAgain() {
    var writes = InPlaceWrites(isLocal: true)
    var now: UInt64 = 0
    var pauses: [UInt64] = []
    for _ in 0..<12 {
      writes.took(from: Self.time(now), to: Self.time(now + 5))
      now += 5
      let start = now
      while !writes.allows(byteCount: 1, now: Self.time(now)) { now += 100 }
      pauses.append(now - start)
    }
    #expect(Array(pauses.prefix(4)) == [100, 200, 400, 800])
    #expect(pauses.last == 60_000)
    for _ in 0..<InPlaceWrites.trustedCount { writes.took(from: Self.time(now), to: Self.time(now)) }
    writes.took(from: Self.time(now), to: Self.time(now + 5))
    #expect(writes.allows(byteCount: 1, now: Self.time(now + 105)))
  }

  @Test func longWritesAndFarStorageAreNotWrittenInPlace() {
    let local = InPlaceWrites(isLocal: true)
    #expect(!local.allows(byteCount: InPlaceWrites.longestByteCount + 1, now: Self.time(0)))
    let far = InPlaceWrites(isLocal: false)
    #expect(!far.allows(byteCount: 512, now: Self.time(0)))
  }

  /// Short writes of every alignment are read back, and a call that the kernel refuses counts as not written.
  @Test(arguments: backends) func shortWritesArriveAndAFailedCallIsTold(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    try await atHome(backend) { home in
      let device = try await RawFile.make(folder, "disk", 1 << 20, on: home.loop)
      var model = [UInt8](repeating: 0, count: 1 << 20)
      var random = SeededRandom(seed: 29)
      for _ in 0..<200 {
        let offset = Int.random(in: 0..<(1 << 20) - 5000, using: &random)
        let bytes = [UInt8](
          repeating: .random(in: 1...255, using: &random), count: .random(in: 1...5000, using: &random))
        model.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        try await device.writeBytes(bytes, at: UInt64(offset))
      }
      #expect(try await device.readAll() == model)
      try await device.close()

      let readOnly = try FileDescriptor.open(path: folder.file("disk"))
      let bytes = [UInt8](repeating: 1, count: 512)
      let isWritten = readOnly.writeHere(bytes.span.bytes, at: 0)
      #expect(!isWritten)
    }
  }
}
