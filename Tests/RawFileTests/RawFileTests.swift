import BlockCore
import BlockTesting
import Buffers
import Descriptors
import EventLoops
import Foundation
import RawFile
import Testing

/// What a latch told; confined to the test's loop.
private final class Told: @unchecked Sendable {
  var errors: [BlockError] = []
}

@Suite struct RawFileTests {
  @Test(arguments: backends) func holesAreToldAsZero(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    try await atHome(backend) { home in
      let device = try await RawFile.make(folder, "disk", 8 << 20, on: home.loop)
      try await device.writeBytes([UInt8](repeating: 1, count: 65536), at: 1 << 20)
      try await device.writeBytes([UInt8](repeating: 1, count: 65536), at: 4 << 20)
      let hole: Extent.Status = [.zero, .hole]
      let extents = try await device.wholeStatus(ByteRange(offset: 0, length: 8 << 20))
      #expect(
        extents == [
          Extent(range: ByteRange(0..<1 << 20), status: hole, depth: 1),
          Extent(range: ByteRange(1 << 20..<(1 << 20) + 65536), status: [], depth: 1),
          Extent(range: ByteRange((1 << 20) + 65536..<4 << 20), status: hole, depth: 1),
          Extent(range: ByteRange(4 << 20..<(4 << 20) + 65536), status: [], depth: 1),
          Extent(range: ByteRange((4 << 20) + 65536..<8 << 20), status: hole, depth: 1),
        ])
      #expect(try await device.blockStatus(ByteRange(offset: 0, length: 8 << 20), limit: 2).count == 2)
      try await device.close()
    }
  }

  @Test(arguments: backends) func zeroesThatMayUnmapGiveStorageBack(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    try await atHome(backend) { home in
      let device = try await RawFile.make(folder, "disk", 4 << 20, on: home.loop)
      try await device.writeBytes([UInt8](repeating: 1, count: 4 << 20), at: 0)
      try await device.flush()
      let probe = try FileDescriptor.open(path: folder.file("disk"))
      #expect(try probe.status().allocatedByteCount >= 4 << 20)
      try await device.writeZeroes(ByteRange(0..<1 << 20), options: [.onlyIfFast])
      #expect(try probe.status().allocatedByteCount >= 4 << 20)
      try await device.writeZeroes(ByteRange(1 << 20..<2 << 20), options: [.mayUnmap, .onlyIfFast, .forceUnitAccess])
      #expect(try probe.status().allocatedByteCount <= 3 << 20)
      try await device.discard(ByteRange(2 << 20..<3 << 20))
      #expect(try probe.status().allocatedByteCount <= 2 << 20)
      let bytes = try await device.readAll()
      #expect(bytes[..<(3 << 20)].allSatisfy { $0 == 0 } && bytes[(3 << 20)...].allSatisfy { $0 == 1 })
      try await device.close()
    }
  }

  @Test(arguments: backends) func resizeKeepsTrackOfTheSize(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    try await atHome(backend) { home in
      let device = try await RawFile.make(folder, "disk", 100, on: home.loop)
      await expectFailure(.outOfRange) { () throws(BlockError) in try await device.writeBytes([1], at: 100) }
      try await device.resize(to: 5000)
      try await device.writeBytes([7], at: 4999)
      try await device.resize(to: 4999)
      try await device.resize(to: 6001)
      #expect(device.byteCount == 6001)
      #expect(try await device.readAll().allSatisfy { $0 == 0 })
      try await device.close()
      #expect(try FileDescriptor.open(path: folder.file("disk")).status().byteCount == 6001)
    }
  }

  @Test(arguments: backends) func directFileAsksForAlignment(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    try await atHome(backend) { home in
      let device = try await RawFile.make(folder, "disk", 1 << 20, direct: true, on: home.loop)
      guard device.isDirect else {
        print("directFileAsksForAlignment: \(folder.path) has no O_DIRECT, not tested")
        return
      }
      let unit = device.limits.requestAlignment
      #expect(unit >= 512)
      await expectFailure(.misaligned) { () throws(BlockError) in try await device.writeBytes([1], at: 0) }
      await expectFailure(.misaligned) { () throws(BlockError) in try await device.resize(to: 1) }
      let bytes = [UInt8](repeating: 5, count: 3 * unit)
      try await device.writeBytes(bytes, at: UInt64(unit), options: .forceUnitAccess)
      #expect(try await device.readBytes(4 * unit, at: 0) == [UInt8](repeating: 0, count: unit) + bytes)
      var page = PageBuffer(byteCount: unit)
      var span = page.mutableBytes
      let isAtHand = try device.tryRead(into: &span, at: 0)
      #expect(!isAtHand)
      try await device.read(into: &span, at: UInt64(unit))
      #expect(page.bytes.unsafeLoad(as: UInt8.self) == 5)
      try await device.close()
    }
  }

  @Test(arguments: backends) func oddSizedFileIsCachedThoughDirectWasAskedFor(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    try await atHome(backend) { home in
      let device = try await RawFile.make(folder, "disk", 1001, direct: true, on: home.loop)
      #expect(!device.isDirect && device.limits.requestAlignment == 1)
      try await device.writeBytes([1, 2, 3], at: 998)
      #expect(try await device.readBytes(3, at: 998) == [1, 2, 3])
      try await device.close()
    }
  }

  /// As formats use it that state their own length.
  @Test(arguments: backends, [1, 511, 4097, 200_001]) func fileThatEndsAmidABlockIsReadPastThePageCacheAndKept(
    _ backend: IOBackend, byteCount: Int
  ) async throws {
    let folder = try TemporaryFolder()
    let path = folder.file("disk")
    let contents = (0..<byteCount).map { UInt8($0 % 251 + 1) }
    try Data(contents).write(to: URL(fileURLWithPath: path))
    try await atHome(backend) { home in
      for isReadOnly in [true, false] {
        var options = RawFile.Options(isReadOnly: isReadOnly, direct: true)
        options.allowsPartialLastBlock = true
        let device = try await RawFile.open(.path(path), options, on: home.loop)
        guard device.isDirect else {
          print("fileThatEndsAmidABlock…: \(folder.path) has no O_DIRECT, not tested")
          return
        }
        let unit = device.limits.requestAlignment
        let last = byteCount / unit * unit
        #expect(try await device.readAll() == contents)
        #expect(try await device.readBytes(byteCount - last, at: UInt64(last)) == Array(contents[last...]))
        let status = try await device.wholeStatus(ByteRange(UInt64(last)..<UInt64(byteCount)))
        #expect(status == [Extent(range: ByteRange(UInt64(last)..<UInt64(byteCount)), status: [], depth: 1)])
        await expectFailure(.outOfRange) { () throws(BlockError) in
          _ = try await device.readBytes(unit, at: UInt64(last))
        }
        if !isReadOnly {
          let tail = [UInt8](repeating: 7, count: byteCount - last)
          await expectFailure(.misaligned) { () throws(BlockError) in
            try await device.writeBytes(tail, at: UInt64(last))
          }
          try await device.flush()
        }
        try await device.close()
        #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == Data(contents))
        if isReadOnly { continue }
        // Whole blocks: the last one can be written.
        let again = try await RawFile.open(.path(path), options, on: home.loop)
        try await again.resize(to: UInt64(last + unit))
        let block = [UInt8](repeating: 8, count: unit)
        #expect(try await again.readAll() == contents + [UInt8](repeating: 0, count: last + unit - byteCount))
        try await again.writeBytes(block, at: UInt64(last))
        #expect(try await again.readAll() == Array(contents[..<last]) + block)
        try await again.close()
      }
    }
  }

  @Test(arguments: backends) func failedFlushLatchesForGood(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    try await atHome(backend) { home in
      try await RawFile.make(folder, "disk", 4096, on: home.loop).close()
      let file = try FileDescriptor.open(path: folder.file("disk"), .init(access: .readWrite))
      let device = try await RawFile.open(file, .init(isReadOnly: false), on: home.loop)
      let told = Told()
      device.onLatch = { told.errors.append($0) }
      try await device.writeBytes([1], at: 0)
      // Pulled away beneath it: the flush has to fail.
      file.close()
      await expectFailure(.io(errno: EBADF)) { () throws(BlockError) in try await device.flush() }
      await expectFailure(.latchedFailed) { () throws(BlockError) in try await device.flush() }
      await expectFailure(.latchedFailed) { () throws(BlockError) in _ = try await device.readBytes(1, at: 0) }
      await expectFailure(.latchedFailed) { () throws(BlockError) in try await device.writeBytes([1], at: 0) }
      await expectFailure(.latchedFailed) { () throws(BlockError) in
        _ = try await device.blockStatus(ByteRange(0..<1), limit: 1)
      }
      try await device.close()
      await expectFailure(.closed) { () throws(BlockError) in try await device.flush() }
      #expect(told.errors == [BlockError(.io(errno: EBADF), .flush)], "told once")
    }
  }

  @Test(arguments: backends) func failedWriteLatches(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    try await atHome(backend) { home in
      try await RawFile.make(folder, "disk", 4096, on: home.loop).close()
      let file = try FileDescriptor.open(path: folder.file("disk"), .init(access: .readWrite))
      let device = try await RawFile.open(file, .init(isReadOnly: false), on: home.loop)
      file.close()
      await expectFailure(.io(errno: EBADF)) { () throws(BlockError) in _ = try await device.readBytes(1, at: 0) }
      await expectFailure(.io(errno: EBADF)) { () throws(BlockError) in try await device.writeBytes([1], at: 0) }
      await expectFailure(.latchedFailed) { () throws(BlockError) in _ = try await device.readBytes(1, at: 0) }
    }
  }

  @Test(arguments: backends) func fileCutBySomebodyElseIsAnError(_ backend: IOBackend) async throws {
    let folder = try TemporaryFolder()
    try await atHome(backend) { home in
      let device = try await RawFile.make(folder, "disk", 8192, on: home.loop)
      try #require(truncate(folder.file("disk"), 4096) == 0)
      #expect(try await device.readBytes(4096, at: 0).count == 4096)
      await expectFailure(.io(errno: EIO)) { () throws(BlockError) in _ = try await device.readBytes(4096, at: 2048) }
      try await device.close()
    }
  }

  @Test(arguments: backends) func whatCannotBeOpenedSaysWhy(_ backend: IOBackend) async throws {
    let temporary = try TemporaryFolder()
    try await atHome(backend) { home in
      let loop = home.loop
      let folder = try Folder(path: temporary.path)
      let readOnly = RawFile.Options(isReadOnly: true)
      await expectFailure(.io(errno: ENOENT)) { () throws(BlockError) in
        _ = try await RawFile.open(.beneath(folder, "none"), readOnly, on: loop)
      }
      await expectFailure(.io(errno: EXDEV)) { () throws(BlockError) in
        _ = try await RawFile.open(.beneath(folder, "../none"), readOnly, on: loop)
      }
      await expectFailure(.io(errno: EISDIR)) { () throws(BlockError) in
        _ = try await RawFile.open(.path(temporary.path), readOnly, on: loop)
      }
      let device = try await RawFile.create(
        .beneath(folder, "new"), byteCount: 10, .init(isReadOnly: false), on: loop)
      await expectFailure(.io(errno: EEXIST)) { () throws(BlockError) in
        _ = try await RawFile.create(.beneath(folder, "new"), byteCount: 10, .init(isReadOnly: false), on: loop)
      }
      try await device.close()
    }
  }

  @Test(arguments: backends) func fullFileSystemIsToldAndDoesNotLatch(_ backend: IOBackend) async throws {
    guard geteuid() == 0 else { return print("fullFileSystemIsToldAndDoesNotLatch: NOT TESTED, needs root to mount") }
    let temporary = try TemporaryFolder()
    guard try Tool.run("mount", "-t", "tmpfs", "-o", "size=1m", "cobweb-raw", temporary.path).status == 0 else {
      return print("fullFileSystemIsToldAndDoesNotLatch: NOT TESTED, mounting is not permitted here")
    }
    defer { _ = try? Tool.run("umount", "-l", temporary.path) }
    try await atHome(backend) { home in
      let device = try await RawFile.make(temporary, "disk", 4 << 20, on: home.loop)
      await expectFailure(.noSpace) { () throws(BlockError) in
        try await device.writeBytes([UInt8](repeating: 1, count: 2 << 20), at: 0)
      }
      await expectFailure(.noSpace) { () throws(BlockError) in
        try await device.writeZeroes(ByteRange(0..<4 << 20), options: [])
      }
      try await device.discard(ByteRange(0..<4 << 20))
      try await device.writeBytes([1, 2, 3], at: 0)
      #expect(try await device.readBytes(3, at: 0) == [1, 2, 3])
      try await device.close()
    }
  }

  @Test(arguments: backends) func blockDeviceIsReadAndWritten(_ backend: IOBackend) async throws {
    let temporary = try TemporaryFolder()
    guard geteuid() == 0 else { return print("blockDeviceIsReadAndWritten: NOT TESTED, needs root for a loop device") }
    try #require(FileManager.default.createFile(atPath: temporary.file("backing"), contents: nil))
    try #require(truncate(temporary.file("backing"), 4 << 20) == 0)
    let setUp = try Tool.run("losetup", "--find", "--show", temporary.file("backing"))
    guard setUp.status == 0 else {
      return print("blockDeviceIsReadAndWritten: NOT TESTED, no loop device to be had: \(setUp.output)")
    }
    let path = setUp.output.trimmingCharacters(in: .whitespacesAndNewlines)
    defer { _ = try? Tool.run("losetup", "--detach", path) }
    try await atHome(backend) { home in
      await expectFailure(.io(errno: ENXIO)) { () throws(BlockError) in
        _ = try await RawFile.open(.path(path), .init(isReadOnly: true), on: home.loop)
      }
      for isDirect in [false, true] {
        let options = RawFile.Options(isReadOnly: false, direct: isDirect, allowsBlockDevice: true)
        let device = try await RawFile.open(.path(path), options, on: home.loop)
        #expect(device.byteCount == 4 << 20)
        #expect(device.isDirect == isDirect)
        try await device.writeBytes([UInt8](repeating: 9, count: 1 << 20), at: 0)
        try await device.writeZeroes(ByteRange(4096..<8192), options: .mayUnmap)
        try await device.writeZeroes(ByteRange(16384..<20480), options: .forceUnitAccess)
        try await device.discard(ByteRange(2 << 20..<3 << 20))
        if !isDirect { try await device.writeZeroes(ByteRange(40_001..<40_003), options: []) }
        try await device.flush()
        let bytes = try await device.readBytes(65536, at: 0)
        let zeroCount = 8192 + (isDirect ? 0 : 2)
        #expect(bytes.count { $0 == 0 } == zeroCount && bytes.count { $0 == 9 } == 65536 - zeroCount)
        let all = ByteRange(0..<4 << 20)
        #expect(try await device.blockStatus(all, limit: 9) == [Extent(range: all, status: [], depth: 1)])
        await expectFailure(.notSupported) { () throws(BlockError) in try await device.resize(to: 1 << 20) }
        try await device.close()
      }
    }
  }
}
