import Descriptors
import EventLoops
import Glibc

/// A file whose bytes are memory of this process, and stay when the process is killed.
///
/// Only what was reserved may be touched: elsewhere the kernel has no page for it, and ends the process.
final class MappedFile: @unchecked Sendable {
  // Safe to hand over: what is done with the memory is its user's, and it goes with the last reference.

  let memory: UnsafeMutableRawPointer
  let byteCount: Int
  private let file: FileDescriptor
  private let pool: TrackingMemory?
  private var takenByteCount = 0

  /// Makes the file, all zeroes, with its first bytes reserved. Blocks.
  /// - Parameter pool: what later reservations are taken from; the first bytes are the caller's affair.
  init(creating path: String, byteCount: Int, reserved: Int, from pool: TrackingMemory) throws(SystemError) {
    file = try FileDescriptor.open(
      path: path, Folder.FileOptions(access: .readWrite, createMode: 0o600, followsLinks: false))
    self.pool = pool
    self.byteCount = byteCount
    try file.truncate(to: UInt64(byteCount))
    memory = try Self.map(file, byteCount)
    guard allocate(0, reserved) else { throw SystemError(ENOSPC, path) }
  }

  /// Opens one that another process left, to be read: all of it that isn't a hole is reserved. Blocks.
  init(reading path: String) throws(SystemError) {
    let number = Glibc.open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)
    guard let opened = FileDescriptor(result: number) else { throw SystemError(errno, path) }
    var status = stat()
    guard fstat(opened.rawValue, &status) == 0 else { throw SystemError(errno) }
    // Others may write to the folder: what isn't our own file says nothing.
    guard status.st_mode & S_IFMT == S_IFREG, status.st_uid == geteuid(), status.st_size > 0 else {
      throw SystemError(EPERM, path)
    }
    file = opened
    pool = nil
    byteCount = Int(status.st_size)
    memory = try Self.map(opened, byteCount)
  }

  private static func map(_ file: FileDescriptor, _ byteCount: Int) throws(SystemError) -> UnsafeMutableRawPointer {
    guard let memory = mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_SHARED, file.rawValue, 0),
      memory != MAP_FAILED
    else { throw SystemError(errno) }
    return memory
  }

  deinit {
    munmap(memory, byteCount)
    pool?.giveBack(takenByteCount)
  }

  /// Has a part be usable from now on. False where there is no more.
  func reserve(_ offset: Int, _ count: Int) -> Bool {
    guard let pool, pool.take(count) else { return false }
    guard allocate(offset, count) else {
      pool.giveBack(count)
      return false
    }
    takenByteCount += count
    return true
  }

  /// The file system assigns it, and it is kept from being swapped out where that is allowed.
  private func allocate(_ offset: Int, _ count: Int) -> Bool {
    guard posix_fallocate(file.rawValue, off_t(offset), off_t(count)) == 0 else { return false }
    _ = mlock(memory + offset, count)
    return true
  }
}
