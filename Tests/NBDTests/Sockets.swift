import Foundation
import Glibc
import Testing

/// A connected unix socket that blocks, closed with its owner. For parts of tests that play one side by hand.
final class BlockingSocket: Sendable {
  let descriptor: Int32

  /// Longer than anything here may take.
  static let timeoutSeconds = 20

  init(adopting descriptor: Int32) {
    self.descriptor = descriptor
    limitWaits()
  }

  private func limitWaits() {
    var timeout = timeval(tv_sec: Self.timeoutSeconds, tv_usec: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
  }

  init(connectingTo path: String) throws {
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    self.descriptor = descriptor
    let result = withUnixAddress(path) { connect(descriptor, $0, $1) }
    try #require(result == 0, "connect: \(errno)")
    limitWaits()
  }

  deinit { close(descriptor) }

  /// What has come, at most `limit` bytes; empty at the end, or when it breaks. An issue if nothing happens.
  func receive(_ limit: Int = 65536) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: limit) { buffer, count in
      let result = recv(descriptor, buffer.baseAddress!, limit, 0)
      if result < 0, errno == EAGAIN { Issue.record("neither bytes nor an end within \(Self.timeoutSeconds) s") }
      count = max(0, result)
    }
  }

  /// Exactly `count` bytes, nil at the end.
  func receiveAll(_ count: Int) -> [UInt8]? {
    var bytes: [UInt8] = []
    while bytes.count < count {
      let part = receive(count - bytes.count)
      if part.isEmpty { return nil }
      bytes += part
    }
    return bytes
  }

  /// False once the other side doesn't take anything any more.
  @discardableResult
  func send(_ bytes: [UInt8]) -> Bool {
    var done = 0
    while done < bytes.count {
      let count = bytes.withUnsafeBytes {
        Glibc.send(descriptor, $0.baseAddress! + done, bytes.count - done, Int32(MSG_NOSIGNAL))
      }
      guard count > 0 else { return false }
      done += count
    }
    return true
  }

  func end(_ side: Int) { shutdown(descriptor, Int32(side)) }

  /// Breaks the connection both ways.
  func cut() { end(SHUT_RDWR) }
}

/// A listening unix socket whose connections are served by hand, each on a thread of its own.
final class BlockingListener: Sendable {
  let path: String
  private let descriptor: Int32

  /// - Parameter serve: gets each connection with its number, from 0 on; nil: nobody is ever accepted.
  init(_ path: String, backlog: Int32 = 64, serve: (@Sendable (BlockingSocket, Int) -> Void)?) throws {
    self.path = path
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    self.descriptor = descriptor
    try #require(withUnixAddress(path) { bind(descriptor, $0, $1) } == 0)
    try #require(listen(descriptor, backlog) == 0)
    guard let serve else { return }
    Thread {
      var number = 0
      while true {
        let accepted = accept(descriptor, nil, nil)
        if accepted < 0 { break }
        let connection = number
        number += 1
        Thread { serve(BlockingSocket(adopting: accepted), connection) }.start()
      }
      close(descriptor)
    }.start()
  }

  deinit {
    shutdown(descriptor, Int32(SHUT_RDWR))
    unlink(path)
  }
}

private func withUnixAddress<Result>(_ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
  var address = sockaddr_un()
  address.sun_family = sa_family_t(AF_UNIX)
  withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
  return withUnsafePointer(to: &address) {
    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
  }
}

/// Stands between a client and a server, and does harm to what passes.
final class Proxy: Sendable {
  /// What becomes of one connection.
  struct Harm: Sendable {
    /// Bytes of the client, or of the server, after which both sides are cut off.
    var clientByteCount = Int.max
    var serverByteCount = Int.max
    /// Changes what passes: the bytes, and how many of that side passed before.
    var changeClient: (@Sendable (inout [UInt8], Int) -> Void)?
    var changeServer: (@Sendable (inout [UInt8], Int) -> Void)?
  }

  private let listener: BlockingListener

  init(_ path: String, before server: String, _ harm: @escaping @Sendable (Int) -> Harm) throws {
    listener = try BlockingListener(path) { client, number in
      guard let server = try? BlockingSocket(connectingTo: server) else { return }
      let harm = harm(number)
      Thread { Self.pump(from: server, to: client, harm.serverByteCount, harm.changeServer) }.start()
      Self.pump(from: client, to: server, harm.clientByteCount, harm.changeClient)
    }
  }

  private static func pump(
    from source: BlockingSocket, to target: BlockingSocket, _ limit: Int,
    _ change: (@Sendable (inout [UInt8], Int) -> Void)?
  ) {
    var passed = 0
    while passed < limit {
      var bytes = source.receive(min(65536, limit - passed))
      if bytes.isEmpty { break }
      change?(&bytes, passed)
      passed += bytes.count
      if !target.send(bytes) { break }
    }
    source.cut()
    target.cut()
  }
}
