import Foundation
import Glibc
import HTTPServer

/// One connection: sends bytes as they are, reads what comes.
final class Wire: @unchecked Sendable {
  // Used by one thread at a time.
  enum Failure: Error { case connect(Int32), closed, malformed(String) }

  /// The longest that any read or write waits.
  private static let timeoutSeconds = 10

  private let descriptor: Int32
  private var buffer: [UInt8] = []

  init(_ address: HTTPListenAddress) throws {
    let code: Int32
    switch address {
    case .tcp(_, let port):
      descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
      var target = sockaddr_in()
      target.sin_family = sa_family_t(AF_INET)
      target.sin_port = port.bigEndian
      inet_pton(AF_INET, "127.0.0.1", &target.sin_addr)
      code = Self.connect(descriptor, &target)
    case .unix(let path, _):
      descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
      var target = sockaddr_un()
      target.sun_family = sa_family_t(AF_UNIX)
      withUnsafeMutableBytes(of: &target.sun_path) { $0.copyBytes(from: Array(path.utf8)) }
      code = Self.connect(descriptor, &target)
    }
    var time = timeval(tv_sec: Self.timeoutSeconds, tv_usec: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    guard code == 0 else { throw Failure.connect(errno) }
  }

  deinit { close(descriptor) }

  private static func connect<Address>(_ descriptor: Int32, _ address: inout Address) -> Int32 {
    withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<Address>.size))
      }
    }
  }

  func send(_ bytes: [UInt8]) throws {
    var sent = 0
    while sent < bytes.count {
      let count = bytes[sent...].withUnsafeBytes {
        Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
      }
      guard count > 0 else { throw Failure.closed }
      sent += count
    }
  }

  /// Status and header fields.
  func readHead() throws -> (status: Int, headers: [(name: String, value: String)]) {
    let first = try readLine()
    guard let status = first.split(separator: " ").dropFirst().first.flatMap({ Int($0) }) else {
      throw Failure.malformed(first)
    }
    var headers: [(name: String, value: String)] = []
    while true {
      let line = try readLine()
      if line.isEmpty { return (status, headers) }
      let parts = line.split(separator: ":", maxSplits: 1)
      headers.append((String(parts[0]), parts.count > 1 ? String(parts[1].drop { $0 == " " }) : ""))
    }
  }

  func readLine() throws -> String {
    while true {
      if let end = buffer.firstIndex(of: 10) {
        defer { buffer.removeFirst(end + 1) }
        return String(decoding: buffer[..<end].filter { $0 != 13 }, as: UTF8.self)
      }
      guard try fill() else { throw Failure.closed }
    }
  }

  /// What comes until the server closes.
  func readToEnd() throws -> [UInt8] {
    while try fill() {}
    defer { buffer = [] }
    return buffer
  }

  /// The lines of the next server-sent event, chunk sizes and comments left out; nil at the end of the stream.
  func readEvent() throws -> [String: String]? {
    var fields: [String: String] = [:]
    while true {
      let line = try readLine()
      if line == "0" { return nil }
      if line.isEmpty {
        if !fields.isEmpty { return fields }
        continue
      }
      guard let colon = line.firstIndex(of: ":"), colon != line.startIndex else { continue }
      fields[String(line[..<colon])] = String(line[line.index(after: colon)...].drop { $0 == " " })
    }
  }

  private func fill() throws -> Bool {
    var block = [UInt8](repeating: 0, count: 64 << 10)
    let count = recv(descriptor, &block, block.count, 0)
    guard count >= 0 else { throw Failure.closed }
    buffer += block[..<count]
    return count > 0
  }
}

/// Runs blocking work on a thread of its own, so that the pool that serves the handlers stays free.
func blocking<Result: Sendable>(_ body: @escaping @Sendable () throws -> Result) async throws -> Result {
  try await withCheckedThrowingContinuation { done in
    Thread { done.resume(with: Swift.Result { try body() }) }.start()
  }
}
