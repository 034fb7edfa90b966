import CMicrohttpd
import Descriptors
import Glibc

/// The file of a unix socket: made with its mode before a client can connect, replaced only if no server answers on it,
/// removed only if it is still ours.
struct SocketFile: Sendable {
  private let path: String
  /// Which file we made; nil if it was gone at once.
  private let identity: Identity?

  private struct Identity: Equatable {
    let device: dev_t
    let inode: ino_t

    init?(of path: String) {
      var status = stat()
      guard lstat(path, &status) == 0 else { return nil }
      (device, inode) = (status.st_dev, status.st_ino)
    }
  }

  /// How often, every 20 ms, a server that starts in the same folder is waited for.
  private static let folderTries = 100

  /// A listening socket at the path, and its file.
  static func listen(
    at path: String, mode: UInt32, backlog: Int32, _ address: HTTPListenAddress
  ) throws(HTTPListenError) -> (FileDescriptor, SocketFile) {
    var name = sockaddr_un()
    name.sun_family = sa_family_t(AF_UNIX)
    let room = MemoryLayout.size(ofValue: name.sun_path) - 1
    let bytes = Array(path.utf8)
    guard !bytes.isEmpty, bytes.count <= room, !bytes.contains(0) else {
      throw HTTPListenError(address: address, reason: "the path of a socket must have 1 to \(room) bytes")
    }
    withUnsafeMutableBytes(of: &name.sun_path) { $0.copyBytes(from: bytes) }
    // Two servers that start at once must not both find a stale file and one remove the other's new one.
    let folder = try lockFolder(of: path, address)
    defer { folder.close() }
    try removeStale(path, name, address)
    let socket = try open(address)
    guard with(name, { bind(socket.rawValue, $0, $1) }) == 0 else { throw HTTPListenError(address, "bind") }
    // Until `listen` the kernel refuses every client, so none slips in under another mode.
    guard chmod(path, mode) == 0 else { throw HTTPListenError(address, "chmod") }
    guard Glibc.listen(socket.rawValue, backlog) == 0 else { throw HTTPListenError(address, "listen") }
    return (socket, SocketFile(path: path, identity: Identity(of: path)))
  }

  func remove() {
    guard let identity, Identity(of: path) == identity else { return }
    unlink(path)
  }

  private static func open(_ address: HTTPListenAddress) throws(HTTPListenError) -> FileDescriptor {
    guard let socket = FileDescriptor(result: cmhd_stream_socket(AF_UNIX)) else {
      throw HTTPListenError(address, "socket")
    }
    return socket
  }

  private static func lockFolder(
    of path: String, _ address: HTTPListenAddress
  ) throws(HTTPListenError) -> FileDescriptor {
    let folder = path.lastIndex(of: "/").map { path[..<$0].isEmpty ? "/" : String(path[..<$0]) } ?? "."
    guard let opened = FileDescriptor(result: Glibc.open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) else {
      throw HTTPListenError(address, "open folder \(folder)")
    }
    for _ in 0..<folderTries {
      if flock(opened.rawValue, LOCK_EX | LOCK_NB) == 0 { return opened }
      usleep(20_000)
    }
    throw HTTPListenError(address: address, reason: "another program keeps the folder \(folder) locked")
  }

  private static func removeStale(
    _ path: String, _ name: sockaddr_un, _ address: HTTPListenAddress
  ) throws(HTTPListenError) {
    var status = stat()
    guard lstat(path, &status) == 0 else { return }
    guard status.st_mode & S_IFMT == S_IFSOCK else {
      throw HTTPListenError(
        address: address, reason: "a file or folder that is no socket has this path; choose another one")
    }
    let probe = try open(address)
    // EAGAIN: a server listens and its backlog is full.
    guard with(name, { connect(probe.rawValue, $0, $1) }) != 0, errno == ECONNREFUSED else {
      throw HTTPListenError(address: address, reason: "another program answers on this socket; stop it first")
    }
    guard unlink(path) == 0 else { throw HTTPListenError(address, "remove the stale socket") }
  }

  private static func with(_ name: sockaddr_un, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
    withUnsafePointer(to: name) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
  }
}
