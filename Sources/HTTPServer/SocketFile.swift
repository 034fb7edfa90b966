import CMicrohttpd
import Glibc

/// The file of a unix socket: made with its mode before anybody can connect, replaced only if nobody answers on it,
/// removed only if it is still ours.
final class SocketFile {
  private let path: String
  private let mode: UInt32
  private let address: HTTPListenAddress
  /// Which file we made.
  private var identity: (device: dev_t, inode: ino_t)?

  /// How often, every 20 ms, a server that starts in the same folder is waited for.
  private static let folderTries = 100

  init(path: String, mode: UInt32, address: HTTPListenAddress) {
    self.path = path
    self.mode = mode
    self.address = address
  }

  /// A listening socket at the path.
  func listen(backlog: Int32) throws(HTTPListenError) -> Int32 {
    var name = sockaddr_un()
    name.sun_family = sa_family_t(AF_UNIX)
    let room = MemoryLayout.size(ofValue: name.sun_path) - 1
    let bytes = Array(path.utf8)
    guard !bytes.isEmpty, bytes.count <= room, !bytes.contains(0) else {
      throw HTTPListenError(address: address, reason: "the path of a socket must have 1 to \(room) bytes")
    }
    withUnsafeMutableBytes(of: &name.sun_path) { $0.copyBytes(from: bytes) }
    // Two servers that start at once must not both find a stale file and one remove the other's new one.
    let folder = try lockFolder()
    defer { close(folder) }
    try removeStale(name)
    let descriptor = try open()
    guard with(name, { bind(descriptor, $0, $1) }) == 0 else { throw fail(descriptor, "bind") }
    // Until `listen` everybody who connects is refused, so nobody slips in under another mode.
    guard chmod(path, mode) == 0 else { throw fail(descriptor, "chmod") }
    guard Glibc.listen(descriptor, backlog) == 0 else { throw fail(descriptor, "listen") }
    identity = currentIdentity()
    return descriptor
  }

  func remove() {
    guard let identity, let current = currentIdentity(), current == identity else { return }
    unlink(path)
  }

  private func open() throws(HTTPListenError) -> Int32 {
    let descriptor = cmhd_stream_socket(AF_UNIX)
    guard descriptor >= 0 else { throw HTTPListenError(address, "socket") }
    return descriptor
  }

  private func fail(_ descriptor: Int32, _ call: String) -> HTTPListenError {
    let error = HTTPListenError(address, call)
    close(descriptor)
    return error
  }

  private func lockFolder() throws(HTTPListenError) -> Int32 {
    let folder = path.lastIndex(of: "/").map { path[..<$0].isEmpty ? "/" : String(path[..<$0]) } ?? "."
    let descriptor = Glibc.open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { throw HTTPListenError(address, "open folder \(folder)") }
    for _ in 0..<Self.folderTries {
      if flock(descriptor, LOCK_EX | LOCK_NB) == 0 { return descriptor }
      usleep(20_000)
    }
    close(descriptor)
    throw HTTPListenError(address: address, reason: "another program keeps the folder \(folder) locked")
  }

  private func removeStale(_ name: sockaddr_un) throws(HTTPListenError) {
    var status = stat()
    guard lstat(path, &status) == 0 else { return }
    guard status.st_mode & S_IFMT == S_IFSOCK else {
      throw HTTPListenError(address: address, reason: "a file that is no socket stands there; remove it")
    }
    let probe = try open()
    defer { close(probe) }
    // EAGAIN: somebody listens and its backlog is full.
    guard with(name, { connect(probe, $0, $1) }) != 0, errno == ECONNREFUSED else {
      throw HTTPListenError(address: address, reason: "another program answers on this socket; stop it first")
    }
    guard unlink(path) == 0 else { throw HTTPListenError(address, "remove the stale socket") }
  }

  private func currentIdentity() -> (device: dev_t, inode: ino_t)? {
    var status = stat()
    return lstat(path, &status) == 0 ? (status.st_dev, status.st_ino) : nil
  }

  private func with(_ name: sockaddr_un, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
    withUnsafePointer(to: name) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
  }
}
