import EventLoops
import Glibc

/// Takes a server's replies off a stream: headers through a buffer, data straight to where it belongs.
/// Confined to the connection's loop.
struct ReplyReader: ~Copyable {
  private static let byteCount = 64 << 10

  private let stream: any ByteStream
  private let progress: LinkProgress
  private var buffer = [UInt8](repeating: 0, count: byteCount)
  private var start = 0
  private var end = 0

  init(_ stream: any ByteStream, _ progress: LinkProgress) {
    self.stream = stream
    self.progress = progress
  }

  /// The next header; nil where the server ended the connection between two replies.
  mutating func header(_ style: HeaderStyle) async throws -> ReplyHeader? {
    guard try await have(ReplyHeader.prefixByteCount) else {
      if start == end { return nil }
      throw Self.cut
    }
    let count = try ReplyHeader.byteCount(buffer.span.bytes.extracting(start..<end), style: style)
    guard try await have(count) else { throw Self.cut }
    let header = try ReplyHeader(buffer.span.bytes.extracting(start..<end), style: style)
    start += count
    return header
  }

  private static let cut = SystemError(ECONNRESET, "the server closed the connection inside a reply")

  /// A short payload as a whole.
  mutating func bytes(_ count: Int) async throws -> [UInt8] {
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 8)
    defer { memory.deallocate() }
    try await fill(memory)
    return Array(memory)
  }

  /// Fills `target`, which stays in place meanwhile.
  mutating func fill(_ target: UnsafeMutableRawBufferPointer) async throws {
    let present = min(target.count, end - start)
    buffer.withUnsafeBytes { target.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[start..<start + present])) }
    start += present
    guard let base = target.baseAddress else { return }
    var done = present
    while done < target.count {
      var rest = MutableRawSpan(_unsafeStart: base + done, byteCount: target.count - done)
      let count = try await stream.receive(into: &rest)
      if count == 0 { throw Self.cut }
      progress.receiptCount += 1
      done += count
    }
  }

  /// True once `count` bytes are in the buffer; false if the server ended its side before.
  private mutating func have(_ count: Int) async throws(SystemError) -> Bool {
    let stream = stream
    while end - start < count {
      if start > 0 {
        buffer.replaceSubrange(0..<end - start, with: Array(buffer[start..<end]))
        end -= start
        start = 0
      }
      let filled = end
      var span = buffer.mutableSpan
      var all = span.mutableBytes
      var free = all._mutatingExtracting(filled..<all.byteCount)
      let received = try await stream.receive(into: &free)
      if received == 0 { return false }
      progress.receiptCount += 1
      end += received
    }
    return true
  }
}
