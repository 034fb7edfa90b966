import Glibc
import HTTPServer

/// A blocking client on a bare socket: sends any bytes, reads responses, and never waits longer than `timeout`.
final class RawClient: @unchecked Sendable {
  // Used by one thread at a time.
  struct Response: Equatable {
    var status: Int
    var headers: [(name: String, value: String)]
    var body: [UInt8]

    var text: String { String(decoding: body, as: UTF8.self) }

    func header(_ name: String) -> String? {
      headers.first { $0.name.lowercased() == name.lowercased() }?.value
    }

    static func == (left: Self, right: Self) -> Bool { left.status == right.status && left.body == right.body }
  }

  enum Failure: Error { case connect(Int32), closed, timeout, malformed(String) }

  let descriptor: Int32
  private var buffer: [UInt8] = []
  private var isOpen = true

  init(_ address: HTTPListenAddress, timeoutMilliseconds: Int = 8000, receiveBuffer: Int32? = nil) throws {
    switch address {
    case .tcp(let host, let port): descriptor = try Self.connect(host, port, receiveBuffer)
    case .unix(let path, _): descriptor = try Self.connect(path)
    }
    var time = timeval(tv_sec: timeoutMilliseconds / 1000, tv_usec: timeoutMilliseconds % 1000 * 1000)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
  }

  deinit { close() }

  func close() {
    if isOpen { Glibc.close(descriptor) }
    isOpen = false
  }

  /// Ends the connection with a reset instead of an orderly close.
  func reset() {
    var linger = linger(l_onoff: 1, l_linger: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout<Glibc.linger>.size))
    close()
  }

  // MARK: Sending

  func send(_ text: String) throws { try send(Array(text.utf8)) }

  func send(_ bytes: [UInt8]) throws {
    var sent = 0
    while sent < bytes.count {
      sent += try sendSome(bytes[sent...])
    }
  }

  /// One `send`; how much the kernel took.
  func sendSome(_ bytes: ArraySlice<UInt8>, flags: Int32 = 0) throws -> Int {
    let count = bytes.withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL) | flags) }
    guard count >= 0 else { throw errno == EAGAIN ? Failure.timeout : Failure.closed }
    return count
  }

  /// Sends what the kernel takes without waiting.
  func sendUntilFull(_ chunk: [UInt8], atMost limit: Int) throws -> Int {
    var total = 0
    while total < limit {
      do {
        total += try sendSome(chunk[...], flags: Int32(MSG_DONTWAIT))
      } catch Failure.timeout {
        return total
      }
    }
    return total
  }

  func get(_ target: String, _ more: String = "", method: String = "GET") throws -> Response {
    try send("\(method) \(target) HTTP/1.1\r\nHost: x\r\n\(more)\r\n")
    return try readResponse(toHead: method == "HEAD")
  }

  // MARK: Receiving

  func readResponse(toHead: Bool = false) throws -> Response {
    var response = try readHead()
    if response.status == 100 { response = try readHead() }
    if toHead || response.status == 204 || response.status == 304 { return response }
    if response.header("Transfer-Encoding")?.lowercased() == "chunked" {
      response.body = try readChunks()
    } else if let length = response.header("Content-Length").flatMap({ Int($0) }) {
      response.body = try take(length)
    } else {
      response.body = try readToEnd()
    }
    return response
  }

  func readHead() throws -> Response {
    var lines: [String] = []
    while true {
      let line = try readLine()
      if line.isEmpty { break }
      lines.append(line)
    }
    guard let first = lines.first, let status = first.split(separator: " ").dropFirst().first.flatMap({ Int($0) })
    else {
      throw Failure.malformed(lines.first ?? "")
    }
    let headers = lines.dropFirst().map { line -> (name: String, value: String) in
      let parts = line.split(separator: ":", maxSplits: 1)
      return (String(parts[0]), parts.count > 1 ? String(parts[1].drop { $0 == " " }) : "")
    }
    return Response(status: status, headers: headers, body: [])
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

  /// One chunk of a chunked body; nil at its end.
  func readChunk() throws -> [UInt8]? {
    let line = try readLine()
    guard let size = Int(line.split(separator: ";")[0], radix: 16) else { throw Failure.malformed(line) }
    let bytes = try take(size)
    _ = try readLine()
    return size == 0 ? nil : bytes
  }

  private func readChunks() throws -> [UInt8] {
    var body: [UInt8] = []
    while let chunk = try readChunk() { body += chunk }
    return body
  }

  func take(_ count: Int) throws -> [UInt8] {
    while buffer.count < count {
      guard try fill() else { throw Failure.closed }
    }
    defer { buffer.removeFirst(count) }
    return Array(buffer[..<count])
  }

  func readToEnd() throws -> [UInt8] {
    while try fill() {}
    defer { buffer = [] }
    return buffer
  }

  /// The server has closed the connection, orderly or not.
  func isClosedByServer() throws -> Bool {
    do {
      return try !fill()
    } catch Failure.closed {
      return true
    }
  }

  private func fill() throws -> Bool {
    var block = [UInt8](repeating: 0, count: 64 << 10)
    let count = recv(descriptor, &block, block.count, 0)
    guard count >= 0 else { throw errno == EAGAIN ? Failure.timeout : Failure.closed }
    buffer += block[..<count]
    return count > 0
  }

  // MARK: Connecting

  private static func connect(_ host: String, _ port: UInt16, _ receiveBuffer: Int32?) throws -> Int32 {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    if var size = receiveBuffer {
      setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &size, socklen_t(MemoryLayout<Int32>.size))
    }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    inet_pton(AF_INET, host, &address.sin_addr)
    let code = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    return try checked(descriptor, code)
  }

  private static func connect(_ path: String) throws -> Int32 {
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(path.utf8)) }
    let code = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    return try checked(descriptor, code)
  }

  private static func checked(_ descriptor: Int32, _ code: Int32) throws -> Int32 {
    guard code == 0 else {
      let error = errno
      Glibc.close(descriptor)
      throw Failure.connect(error)
    }
    return descriptor
  }
}
