import CMicrohttpd
import Descriptors
import Glibc

/// A socket that listens, and the socket file that is ours. Closed, and the file removed, by `close`.
final class ListeningSocket: Sendable {
  private let socket: FileDescriptor
  /// The address with the port that was taken.
  let address: HTTPListenAddress
  private let file: SocketFile?

  /// Connections that the kernel holds ready.
  private static let backlog: Int32 = 511

  init(_ address: HTTPListenAddress) throws(HTTPListenError) {
    switch address {
    case .tcp(let host, let port):
      (socket, self.address) = try Self.listen(host, port, address)
      file = nil
    case .unix(let path, let mode):
      (socket, file) = try SocketFile.listen(at: path, mode: mode, backlog: Self.backlog, address)
      self.address = address
    }
  }

  deinit {
    close()
  }

  var kind: Connections.Kind { if case .tcp = address { .tcp } else { .unix } }

  /// −1 once closed.
  var descriptor: Int32 { socket.rawValue }

  /// Refuses further connections. Idempotent.
  func close() {
    guard descriptor >= 0 else { return }
    file?.remove()
    socket.close()
  }

  private static func listen(
    _ host: String, _ port: UInt16, _ address: HTTPListenAddress
  ) throws(HTTPListenError) -> (FileDescriptor, HTTPListenAddress) {
    var hints = addrinfo()
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    var found: UnsafeMutablePointer<addrinfo>?
    let code = getaddrinfo(host, String(port), &hints, &found)
    guard code == 0, let found else {
      throw HTTPListenError(address: address, reason: "\(host) is not a numeric address; give one like 127.0.0.1")
    }
    defer { freeaddrinfo(found) }
    guard let socket = FileDescriptor(result: cmhd_stream_socket(found.pointee.ai_family)) else {
      throw HTTPListenError(address, "socket")
    }
    let descriptor = socket.rawValue
    var one: Int32 = 1
    let size = socklen_t(MemoryLayout<Int32>.size)
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, size)
    if found.pointee.ai_family == AF_INET6 { setsockopt(descriptor, Int32(IPPROTO_IPV6), IPV6_V6ONLY, &one, size) }
    guard Glibc.bind(descriptor, found.pointee.ai_addr, found.pointee.ai_addrlen) == 0,
      Glibc.listen(descriptor, backlog) == 0
    else { throw HTTPListenError(address, "bind") }
    return (socket, .tcp(host: host, port: boundPort(descriptor)))
  }

  private static func boundPort(_ descriptor: Int32) -> UInt16 {
    var storage = sockaddr_storage()
    var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
    let port = withUnsafeMutableBytes(of: &storage) { bytes -> UInt16 in
      guard let start = bytes.baseAddress?.assumingMemoryBound(to: sockaddr.self),
        getsockname(descriptor, start, &size) == 0
      else { return 0 }
      // sin_port and sin6_port stand at the same place.
      return bytes.loadUnaligned(fromByteOffset: 2, as: UInt16.self)
    }
    return UInt16(bigEndian: port)
  }
}

extension HTTPListenError {
  /// A call of the kernel failed with `errno`.
  init(_ address: HTTPListenAddress, _ call: String) {
    let code = errno
    let advice =
      switch code {
      case EADDRINUSE: "; another program listens there: stop it or choose another address"
      case EACCES: "; ports below 1024 and folders of others need more rights"
      case EADDRNOTAVAIL: "; this machine doesn't have that address"
      default: ""
      }
    self.init(address: address, reason: "\(call): \(String(cString: strerror(code)))\(advice)")
  }
}
