import CLiburing
import Descriptors
import Glibc

// System calls on a file that may block: call them inside `EventLoop.blocking`.
extension FileDescriptor {
  /// The first byte of data at or after `offset`; nil if only a hole follows.
  package func seekData(from offset: UInt64) throws(SystemError) -> UInt64? {
    let found = lseek(rawValue, off_t(offset), Int32(shim_seek_data))
    if found >= 0 { return UInt64(found) }
    if errno == ENXIO { return nil }
    throw .last
  }

  /// The first byte of a hole at or after `offset` (the end of the file counts as one); nil if `offset` is past it.
  package func seekHole(from offset: UInt64) throws(SystemError) -> UInt64? {
    let found = lseek(rawValue, off_t(offset), Int32(shim_seek_hole))
    if found >= 0 { return UInt64(found) }
    if errno == ENXIO { return nil }
    throw .last
  }

  package func truncate(to byteCount: UInt64) throws(SystemError) {
    guard let size = off_t(exactly: byteCount) else { throw SystemError(EFBIG) }
    while ftruncate(rawValue, size) != 0 {
      if errno != EINTR { throw .last }
    }
  }

  /// A block device's size and the smallest unit that it is addressed by, in bytes.
  package func blockDeviceGeometry() throws(SystemError) -> (byteCount: UInt64, sectorByteCount: Int) {
    var byteCount: UInt64 = 0
    var sector: Int32 = 0
    guard shim_block_byte_count(rawValue, &byteCount) == 0, shim_block_sector(rawValue, &sector) == 0 else {
      throw .last
    }
    return (byteCount, Int(sector))
  }

  /// Tells a block device from others that had its number since the machine was started; nil where the kernel doesn't.
  package func diskSequence() -> UInt64? {
    var sequence: UInt64 = 0
    return shim_disk_sequence(rawValue, &sequence) == 0 ? sequence : nil
  }

  /// When the file was made, in nanoseconds since 1970, which no program can set; nil where the file system doesn't say.
  package func birthNanoseconds() -> Int64? {
    var nanoseconds: Int64 = 0
    return shim_birth(rawValue, &nanoseconds) == 0 && nanoseconds != 0 ? nanoseconds : nil
  }

  /// Makes a block device's range read as zeroes (BLKZEROOUT); whole sectors.
  package func zeroOutBlocks(at offset: UInt64, byteCount: UInt64) throws(SystemError) {
    guard shim_block_zero_out(rawValue, offset, byteCount) == 0 else { throw .last }
  }

  /// Gives a block device's range back (BLKDISCARD); whole sectors. What it reads as afterwards is not known.
  package func discardBlocks(at offset: UInt64, byteCount: UInt64) throws(SystemError) {
    guard shim_block_discard(rawValue, offset, byteCount) == 0 else { throw .last }
  }

  /// What O_DIRECT asks of this file: the alignment of memory and of offsets and lengths, in bytes.
  /// Nil where the kernel or the file system can't tell, or direct I/O isn't supported.
  package func directAlignment() -> (memory: Int, offset: Int)? {
    var memory: UInt32 = 0
    var offset: UInt32 = 0
    guard shim_direct_alignment(rawValue, &memory, &offset) == 0, memory > 0, offset > 0 else { return nil }
    return (Int(memory), Int(offset))
  }

  /// Has all further I/O go past the page cache (O_DIRECT). False where the file system can't.
  package func enableDirect() throws(SystemError) -> Bool {
    let flags = fcntl(rawValue, F_GETFL)
    guard flags >= 0 else { throw .last }
    if fcntl(rawValue, F_SETFL, flags | Int32(shim_o_direct)) == 0 { return true }
    if errno == EINVAL { return false }
    throw .last
  }

  // MARK: Open file description locks

  /// Puts a shared lock on one byte; it belongs to the open file and goes with it.
  /// - Throws: EAGAIN or EACCES if another description holds an exclusive lock on it.
  package func lockShared(byte: UInt64) throws(SystemError) {
    guard shim_ofd_set(rawValue, Int16(F_RDLCK), off_t(byte), 1) == 0 else { throw .last }
  }

  package func unlock(byte: UInt64) throws(SystemError) {
    guard shim_ofd_set(rawValue, Int16(F_UNLCK), off_t(byte), 1) == 0 else { throw .last }
  }

  /// True if another open file, in this process or any other, has a lock of any kind on the byte.
  package func isLockedElsewhere(byte: UInt64) throws(SystemError) -> Bool {
    var found: Int16 = 0
    guard shim_ofd_test(rawValue, off_t(byte), 1, &found) == 0 else { throw .last }
    return found != Int16(F_UNLCK)
  }
}

extension FileDescriptor {
  /// Fills all of `buffer` from the page cache without waiting (`preadv2` with RWF_NOWAIT). False if any byte isn't
  /// there, and where the file system has no such call; the buffer is undefined then. Any thread may call it.
  /// Not for files opened with O_DIRECT: there the call waits for the device.
  package func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) -> Bool {
    buffer.withUnsafeMutableBytes { bytes in
      var part = iovec(iov_base: bytes.baseAddress, iov_len: bytes.count)
      return shim_preadv2(rawValue, &part, 1, off_t(bitPattern: offset), noWaitReadFlag) == bytes.count
    }
  }
}

extension FileDescriptor {
  /// Writes with one plain system call on the calling thread, which may block as long as the kernel likes: for callers
  /// that have reason to expect a quick end.
  /// - Returns: true if all bytes were written. After false any part of them may be, and the caller writes them again
  ///   in a way that tells what is wrong.
  package func writeHere(_ bytes: RawSpan, at offset: UInt64) -> Bool {
    guard let start = off_t(exactly: offset) else { return false }
    return bytes.withUnsafeBytes { pwrite(rawValue, $0.baseAddress, $0.count, start) == $0.count }
  }

  /// True if the file's file system is known to be one of a local disk or of memory.
  package func isOnLocalFileSystem() throws(SystemError) -> Bool {
    var magic: UInt32 = 0
    guard shim_file_system(rawValue, &magic) == 0 else { throw .last }
    return localFileSystems.contains(magic)
  }
}

/// Magic numbers of linux/magic.h: ext2 to ext4, XFS, Btrfs, tmpfs.
private let localFileSystems: Set<UInt32> = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994]

/// RWF_NOWAIT
private let noWaitReadFlag: Int32 = 8

extension off_t {
  fileprivate init(bitPattern offset: UInt64) { self = off_t(truncatingIfNeeded: offset) }
}
