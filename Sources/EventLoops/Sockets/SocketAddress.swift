import Bytes
import CLiburing
import Glibc

/// Where a stream socket listens or connects to. Names aren't resolved here, as that blocks.
package enum SocketAddress: Hashable, Sendable {
  /// A unix socket's path, at most ``UnixSocket/longestPath`` bytes.
  case unix(path: String)
  /// A numeric IPv4 or IPv6 address, without brackets, and a port; port 0 lets the kernel choose when listening.
  case ip(host: String, port: UInt16)

  var family: Int32 {
    switch self {
    case .unix: AF_UNIX
    case .ip(let host, _): host.contains(":") ? AF_INET6 : AF_INET
    }
  }

  /// The kernel's form of the address, in memory that the caller frees.
  func kernelAddress() throws(SystemError) -> KernelAddress {
    switch self {
    case .unix(let path): try KernelAddress(path: path)
    case .ip(let host, let port): try KernelAddress(host: host, port: port)
    }
  }
}

extension SocketAddress: CustomStringConvertible {
  package var description: String {
    switch self {
    case .unix(let path): path
    case .ip(let host, let port): HostAndPort.text(host: host, port: port)
    }
  }
}

/// Memory for a `sockaddr` of any family, to be freed by `deallocate`.
struct KernelAddress {
  private let storage = UnsafeMutablePointer<sockaddr_storage>.allocate(capacity: 1)
  private(set) var length = socklen_t(MemoryLayout<sockaddr_storage>.size)

  /// Room for any address.
  init() { storage.initialize(to: sockaddr_storage()) }

  func deallocate() { storage.deallocate() }

  var pointer: UnsafePointer<sockaddr> { UnsafePointer(mutablePointer) }
  var mutablePointer: UnsafeMutablePointer<sockaddr> { cast(to: sockaddr.self) }

  private func cast<Address>(to type: Address.Type) -> UnsafeMutablePointer<Address> {
    UnsafeMutableRawPointer(storage).assumingMemoryBound(to: type)
  }

  init(path: String) throws(SystemError) {
    let bytes = Array(path.utf8)
    guard !bytes.isEmpty, bytes.count <= UnixSocket.longestPath, !bytes.contains(0) else {
      throw SystemError(ENAMETOOLONG, "a unix socket's path has 1 to \(UnixSocket.longestPath) bytes: \(path)")
    }
    self.init()
    let address = cast(to: sockaddr_un.self)
    address.pointee.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.pointee.sun_path) { $0.copyBytes(from: bytes) }
    length = socklen_t(MemoryLayout<sockaddr_un>.size)
  }

  init(host: String, port: UInt16) throws(SystemError) {
    self.init()
    let isParsed: Bool
    if host.contains(":") {
      let address = cast(to: sockaddr_in6.self)
      address.pointee.sin6_family = sa_family_t(AF_INET6)
      address.pointee.sin6_port = port.bigEndian
      isParsed = inet_pton(AF_INET6, host, &address.pointee.sin6_addr) == 1
      length = socklen_t(MemoryLayout<sockaddr_in6>.size)
    } else {
      let address = cast(to: sockaddr_in.self)
      address.pointee.sin_family = sa_family_t(AF_INET)
      address.pointee.sin_port = port.bigEndian
      isParsed = inet_pton(AF_INET, host, &address.pointee.sin_addr) == 1
      length = socklen_t(MemoryLayout<sockaddr_in>.size)
    }
    guard isParsed else {
      deallocate()
      throw SystemError(EINVAL, "not a numeric IP address: \(host)")
    }
  }

  /// An IP address and its port as text, nil for any other.
  var ipDescription: String? {
    let family = Int32(storage.pointee.ss_family)
    guard family == AF_INET || family == AF_INET6 else { return nil }
    var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
    if family == AF_INET {
      inet_ntop(family, &cast(to: sockaddr_in.self).pointee.sin_addr, &text, socklen_t(text.count))
    } else {
      inet_ntop(family, &cast(to: sockaddr_in6.self).pointee.sin6_addr, &text, socklen_t(text.count))
    }
    let host = String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    return SocketAddress.ip(host: host, port: port).description
  }

  /// The port in an IP address, 0 in any other.
  var port: UInt16 {
    switch Int32(storage.pointee.ss_family) {
    case AF_INET: UInt16(bigEndian: cast(to: sockaddr_in.self).pointee.sin_port)
    case AF_INET6: UInt16(bigEndian: cast(to: sockaddr_in6.self).pointee.sin6_port)
    default: 0
    }
  }
}
