import CLiburing
import Descriptors
import Glibc

/// A folder that is held open, beneath which files are opened without a way out of it.
package final class Folder: Sendable {
  /// The folder itself, opened to read: good for `fsync`, and as the anchor of further calls.
  package let descriptor: FileDescriptor
  let calls: FolderCalls

  /// Opens the folder at `path`, which is trusted.
  package init(path: String) throws(SystemError) {
    guard let descriptor = FileDescriptor(result: open(path, O_RDONLY | O_CLOEXEC | O_DIRECTORY)) else {
      throw SystemError(errno, path)
    }
    self.descriptor = descriptor
    calls = .kernel
  }

  /// Takes over a descriptor that has a folder open to read.
  init(adopting descriptor: FileDescriptor, calls: FolderCalls) {
    self.descriptor = descriptor
    self.calls = calls
  }

  /// The same open folder, with other system calls beneath it.
  package func making(_ calls: FolderCalls) -> Folder { Folder(adopting: descriptor, calls: calls) }

  package enum Access: Hashable, Sendable { case readOnly, readWrite }

  /// How a file beneath the folder is opened.
  package struct FileOptions: Hashable, Sendable {
    package var access = Access.readOnly
    /// Past the page cache; memory, offsets and lengths must be aligned.
    package var direct = false
    /// Creates the file with this mode; it must not exist, not even as a dangling link.
    package var createMode: UInt32?
    /// Whether a block device is acceptable.
    package var allowsBlockDevice = false
    /// Whether links on the way are followed, the last name included.
    package var followsLinks = true

    package init(
      access: Access = .readOnly, direct: Bool = false, createMode: UInt32? = nil, allowsBlockDevice: Bool = false,
      followsLinks: Bool = true
    ) {
      self.access = access
      self.direct = direct
      self.createMode = createMode
      self.allowsBlockDevice = allowsBlockDevice
      self.followsLinks = followsLinks
    }
  }

  /// Opens the file at `path`, relative to the folder. Links are followed as long as they stay beneath it, unless the
  /// options say otherwise; `..` that climbs out, absolute paths and links, and /proc's magic links are refused. Opening
  /// never waits for a FIFO's other end. May block on the disk: loops do it through `blocking`.
  /// - Throws: EXDEV for a path that leaves the folder, ELOOP for a link that isn't to be followed, EISDIR or ENXIO for
  ///   what isn't a regular file, and what the kernel says; the detail names the path.
  package func openFile(_ path: String, _ options: FileOptions = FileOptions()) throws(SystemError) -> FileDescriptor {
    var how = open_how()
    how.flags = UInt64(UInt32(bitPattern: options.openFlags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY))
    how.mode = UInt64(options.createMode ?? 0)
    how.resolve = Self.resolution(followsLinks: options.followsLinks)
    let number = try openRetrying(path, &how)
    let file = FileDescriptor(adopting: number)
    try file.check(options, path)
    return file
  }

  /// The kernel's rules for every look-up beneath a folder.
  static func resolution(followsLinks: Bool) -> UInt64 {
    UInt64(RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | (followsLinks ? 0 : RESOLVE_NO_SYMLINKS))
  }

  func openRetrying(_ path: String, _ how: inout open_how) throws(SystemError) -> Int32 {
    // EAGAIN means that a rename elsewhere raced with the look-up of "..": a bounded number of tries will do.
    var triesLeft = 16
    while true {
      let number = shim_openat2(descriptor.rawValue, path, &how)
      if number >= 0 { return number }
      let code = errno
      triesLeft -= 1
      if (code == EINTR || code == EAGAIN), triesLeft > 0 { continue }
      throw SystemError(code, code == EXDEV ? "\(path) leads out of its folder" : path)
    }
  }
}

extension Folder.FileOptions {
  fileprivate var openFlags: Int32 {
    var flags = access == .readOnly ? O_RDONLY : O_RDWR
    if direct { flags |= Int32(shim_o_direct) }
    if createMode != nil { flags |= O_CREAT | O_EXCL }
    return flags
  }
}

extension FileDescriptor {
  /// Refuses what isn't a regular file (or an acceptable block device), and makes its I/O wait as usual.
  fileprivate func check(_ options: Folder.FileOptions, _ path: String) throws(SystemError) {
    let kind = try status().kind
    guard kind == .regular || (kind == .blockDevice && options.allowsBlockDevice) else {
      throw SystemError(kind == .folder ? EISDIR : ENXIO, "\(path) is \(kind.rawValue), not a regular file")
    }
    let flags = fcntl(rawValue, F_GETFL)
    guard flags >= 0, fcntl(rawValue, F_SETFL, flags & ~O_NONBLOCK) == 0 else { throw .last }
  }

  /// Opens a regular file or, if acceptable, a block device, by a trusted path.
  /// - Throws: as ``Folder/openFile(_:_:)``.
  package static func open(
    path: String, _ options: Folder.FileOptions = Folder.FileOptions()
  ) throws(SystemError) -> FileDescriptor {
    let flags = options.openFlags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY
    guard let file = FileDescriptor(result: Glibc.open(path, flags, options.createMode ?? 0)) else {
      throw SystemError(errno, path)
    }
    try file.check(options, path)
    return file
  }
}
