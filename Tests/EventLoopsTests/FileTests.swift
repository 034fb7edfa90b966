import Descriptors
import EventLoops
import Glibc
import Testing

@Suite struct FileTests {
  @Test(arguments: backends) func writtenBytesReadBack(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    try folder.makeFile("a")
    let bytes = pattern(3 << 20)
    try await onLoop(backend) { loop in
      let file = try folder.open(file: "a")
      try await loop.write(file, bytes.span.bytes, at: 777)
      try await loop.write(file, bytes.span.bytes.extracting(0..<4096), at: 100 << 20, durable: true)
      try await loop.fdatasync(file)
      try await loop.fsync(file)
      #expect(try await loop.readBytes(file, bytes.count, at: 777) == bytes)
      #expect(try await loop.readBytes(file, 4096, at: 100 << 20) == Array(bytes[0..<4096]))
      #expect(try file.status().byteCount == (100 << 20) + 4096)
    }
  }

  @Test(arguments: backends) func readPastTheEndIsShort(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    let bytes = pattern(5000)
    try folder.makeFile("a", bytes)
    try await onLoop(backend) { loop in
      let file = try folder.open(file: "a")
      #expect(try await loop.readBytes(file, 8192, at: 0) == bytes)
      #expect(try await loop.readBytes(file, 8192, at: 4999) == [bytes[4999]])
      #expect(try await loop.readBytes(file, 10, at: 5000) == [])
      #expect(try await loop.readBytes(file, 10, at: 1 << 40) == [])
      #expect(try await loop.readBytes(file, 0, at: 0) == [])
    }
  }

  @Test(arguments: backends) func failuresCarryTheErrno(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    try folder.makeFile("a", [1, 2, 3])
    try await onLoop(backend) { loop in
      let readOnly = try FileDescriptor.open(path: folder.file("a"))
      await #expect(throws: SystemError(EBADF)) { try await loop.write(readOnly, [UInt8(1)].span.bytes, at: 0) }
      await #expect(throws: SystemError(EFBIG)) { _ = try await loop.readBytes(readOnly, 10, at: .max - 4) }
      await #expect(throws: SystemError(EFBIG)) {
        _ = try await loop.readBytes(readOnly, 10, at: UInt64(Int64.max) - 4)
      }
      readOnly.close()
      await #expect(throws: SystemError(EBADF)) { _ = try await loop.readBytes(readOnly, 10, at: 0) }
      await #expect(throws: SystemError(EBADF)) { try await loop.fdatasync(readOnly) }
    }
  }

  @Test(arguments: backends) func fullDeviceIsToldAsSuch(_ backend: IOBackend) async throws {
    try await onLoop(backend) { loop in
      let file = FileDescriptor(adopting: Glibc.open("/dev/full", O_RDWR | O_CLOEXEC))
      await #expect(throws: SystemError(ENOSPC)) { try await loop.write(file, pattern(4096).span.bytes, at: 0) }
    }
  }

  @Test(arguments: backends) func allocationModesChangeTheFile(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    try folder.makeFile("a", [UInt8](repeating: 7, count: 1 << 20))
    try await onLoop(backend) { loop in
      let file = try folder.open(file: "a")
      try await loop.fsync(file)
      try await loop.allocate(file, [.punchHole, .keepSize], at: 65536, byteCount: 65536)
      #expect(try await loop.readBytes(file, 65536, at: 65536).allSatisfy { $0 == 0 })
      #expect(try file.seekHole(from: 0) == 65536)
      #expect(try file.seekData(from: 65536) == 131072)
      #expect(try file.seekData(from: 1 << 20) == nil)
      try await loop.allocate(file, [.zeroRange, .keepSize], at: 1 << 19, byteCount: 4096)
      #expect(try await loop.readBytes(file, 4097, at: 1 << 19) == [UInt8](repeating: 0, count: 4096) + [7])
      try await loop.allocate(file, .allocate, at: 0, byteCount: 2 << 20)
      #expect(try file.status().byteCount == 2 << 20)
      await #expect(throws: SystemError(EFBIG)) {
        try await loop.allocate(file, .allocate, at: 1, byteCount: UInt64(Int64.max))
      }
    }
  }

  /// More reads at once than the submission queue has entries.
  @Test(arguments: backends) func thousandsOfReadsAtOnceAllAnswer(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    let bytes = pattern(1 << 20)
    try folder.makeFile("a", bytes)
    let count = 5000 * effort
    let rightCount = try await onLoop(backend) { loop in
      let file = try folder.open(file: "a")
      return try await withThrowingTaskGroup(of: Bool.self) { tasks in
        for index in 0..<count {
          tasks.addTask {
            let offset = index * 199 % (bytes.count - 100)
            return try await loop.readBytes(file, 100, at: UInt64(offset)) == Array(bytes[offset..<offset + 100])
          }
        }
        return try await tasks.reduce(0) { $0 + ($1 ? 1 : 0) }
      }
    }
    #expect(rightCount == count)
  }

  @Test(arguments: backends) func cancellationDoesNotCutFileIO(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    let bytes = pattern(1 << 20)
    try folder.makeFile("a", bytes)
    try await withLoops(backend) { group in
      let loop = group.next()
      let task = Task {
        try await loop.run {
          while !Task.isCancelled { await Task.yield() }
          let file = try folder.open(file: "a")
          try await loop.write(file, bytes.span.bytes, at: 1 << 20)
          return try await loop.readBytes(file, bytes.count, at: 1 << 20)
        }
      }
      task.cancel()
      let found = try await task.value
      #expect(found == bytes)
    }
  }

  @Test func tryReadTakesOnlyWhatIsCached() async throws {
    let folder = try TemporaryFolder()
    let bytes = pattern(8192)
    try folder.makeFile("a", bytes)
    let file = try folder.open(file: "a")
    var buffer = [UInt8](repeating: 0, count: 4096)
    var span = buffer.mutableSpan
    var raw = span.mutableBytes
    let isRead = file.tryRead(into: &raw, at: 4096)
    let isReadPastTheEnd = file.tryRead(into: &raw, at: 4097)
    #expect(!isReadPastTheEnd)
    #expect(isRead)
  }

  /// Operations of random kinds, places and sizes, many at once, against a model in memory.
  @Test(arguments: backends) func randomReadsAndWritesMatchAModel(_ backend: IOBackend) async throws {
    let seed = UInt64.random(in: 0 ... .max)
    print("randomReadsAndWritesMatchAModel(\(backend)) seed \(seed)")
    let folder = try TemporaryFolder()
    try folder.makeFile("a")
    let rounds = 60 * effort
    let isRight = try await onLoop(backend) { loop in
      let file = try folder.open(file: "a")
      var random = seed | 1
      func next(_ bound: Int) -> Int {
        random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return Int(random >> 33) % bound
      }
      // Each lane owns a part of the file, so lanes may run at once.
      let (lanes, part) = (8, 40_000)
      var model = [UInt8](repeating: 0, count: lanes * part)
      try file.truncate(to: UInt64(model.count))
      for _ in 0..<rounds {
        try await withThrowingTaskGroup(of: Void.self) { tasks in
          for lane in 0..<lanes {
            let offset = next(part)
            let bytes = pattern(next(part - offset) + 1, seed: next(1 << 20))
            let place = lane * part + offset
            model.replaceSubrange(place..<place + bytes.count, with: bytes)
            tasks.addTask { try await loop.write(file, bytes.span.bytes, at: UInt64(place)) }
          }
          try await tasks.waitForAll()
        }
        let offset = next(model.count)
        let count = next(model.count - offset) + 1
        guard try await loop.readBytes(file, count, at: UInt64(offset)) == Array(model[offset..<offset + count]) else {
          return false
        }
      }
      return true
    }
    #expect(isRight, "seed \(seed)")
  }
}
