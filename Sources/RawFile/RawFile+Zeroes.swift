import BlockCore
import Buffers
import EventLoops
import Glibc

/// Writing zeroes, giving storage back, and the size.
extension RawFile {
  /// What is written at once where zeroes must be written as data.
  private static let zeroChunkByteCount = 1 << 20

  package func writeZeroes(_ range: ByteRange, options: ZeroOptions) async throws(BlockError) {
    try checkStage(.writeZeroes)
    try checkRequest(.writeZeroes, at: range.offset, length: range.length)
    guard !range.isEmpty else { return }
    if try await zeroFast(range, mayUnmap: options.contains(.mayUnmap)) == false {
      if options.contains(.onlyIfFast) { throw BlockError(.notFast, .writeZeroes, range) }
      try await zeroSlowly(range)
    }
    if options.contains(.forceUnitAccess) { try await flush() }
  }

  /// Zeroes by changing how the range is stored. False, with nothing changed, where that isn't possible.
  private func zeroFast(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) -> Bool {
    // A block device's zeroRange may write zeroes as data, so there only a punch is fast.
    if mayUnmap, try await change(range, [.punchHole, .keepSize]) { return true }
    if isBlockDevice { return false }
    if try await change(range, [.zeroRange, .keepSize]) { return true }
    // Where only holes can be made: a hole that is then allocated reads as zeroes, too.
    guard try await change(range, [.punchHole, .keepSize]) else { return false }
    _ = try await change(range, [.keepSize])
    return true
  }

  /// False where the file system or device doesn't know this mode for this range.
  private func change(_ range: ByteRange, _ mode: AllocationMode) async throws(BlockError) -> Bool {
    try await request(.writeZeroes, range) { () async throws(SystemError) in
      do throws(SystemError) {
        try await loop.allocate(file, mode, at: range.offset, byteCount: range.length, in: lane)
        return true
      } catch {
        // EINVAL: not whole sectors of a block device. ENODEV: no such call for this kind of file.
        if [EOPNOTSUPP, ENOSYS, EINVAL, ENODEV].contains(error.code) { return false }
        throw error
      }
    }
  }

  private func zeroSlowly(_ range: ByteRange) async throws(BlockError) {
    if isBlockDevice, isWholeSectors(range), try await zeroOutBlocks(range) { return }
    let zeroes = PageBuffer(byteCount: Int(min(range.length, UInt64(Self.zeroChunkByteCount))))
    try await request(.writeZeroes, range) { () async throws(SystemError) in
      var offset = range.offset
      while offset < range.end {
        let count = Int(min(range.end - offset, UInt64(Self.zeroChunkByteCount)))
        try await loop.write(file, zeroes.bytes.extracting(0..<count), at: offset, in: lane)
        offset += UInt64(count)
      }
    }
  }

  private func zeroOutBlocks(_ range: ByteRange) async throws(BlockError) -> Bool {
    try await request(.writeZeroes, range) { () async throws(SystemError) in
      do throws(SystemError) {
        try await loop.blocking(in: lane) { [file] () throws(SystemError) in
          try file.zeroOutBlocks(at: range.offset, byteCount: range.length)
        }
        return true
      } catch {
        if [EOPNOTSUPP, ENOTTY, EINVAL].contains(error.code) { return false }
        throw error
      }
    }
  }

  private func isWholeSectors(_ range: ByteRange) -> Bool {
    range.offset % UInt64(sectorByteCount) == 0 && range.length % UInt64(sectorByteCount) == 0
  }

  /// Gives the range's storage back where the file system or device can; succeeds, and does nothing, where it can't.
  package func discard(_ range: ByteRange) async throws(BlockError) {
    try checkStage(.discard)
    try checkRequest(.discard, at: range.offset, length: range.length)
    let sector = UInt64(sectorByteCount)
    let start = (range.offset + sector - 1) / sector * sector
    let end = range.end / sector * sector
    guard start < end else { return }
    try await request(.discard, range) { () async throws(SystemError) in
      do throws(SystemError) {
        try await discardWhole(at: start, byteCount: end - start)
      } catch {
        guard [EOPNOTSUPP, ENOSYS, ENODEV, ENOTTY].contains(error.code) else { throw error }
      }
    }
  }

  private func discardWhole(at offset: UInt64, byteCount: UInt64) async throws(SystemError) {
    if isBlockDevice {
      try await loop.blocking(in: lane) { [file] () throws(SystemError) in
        try file.discardBlocks(at: offset, byteCount: byteCount)
      }
    } else {
      try await loop.allocate(file, [.punchHole, .keepSize], at: offset, byteCount: byteCount, in: lane)
    }
  }

  package func resize(to newByteCount: UInt64) async throws(BlockError) {
    try await sizeLock.withRange(ByteRange(0..<1), .exclusive) { () async throws(BlockError) in
      try checkStage(.resize)
      if isReadOnly { throw BlockError(.readOnly, .resize) }
      if isBlockDevice {
        throw BlockError(.notSupported, .resize, cause: "a block device's size is changed by what provides it")
      }
      if newByteCount % UInt64(limits.requestAlignment) != 0 { throw BlockError(.misaligned, .resize) }
      try await request(.resize, nil) { () async throws(SystemError) in
        try await loop.blocking(in: lane) { [file] () throws(SystemError) in try file.truncate(to: newByteCount) }
      }
      byteCount = newByteCount
    }
  }
}
