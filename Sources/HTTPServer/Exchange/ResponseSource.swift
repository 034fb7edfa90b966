/// Content that comes into being while it is sent. Read by one thread of libmicrohttpd; written from any.
protocol ResponseSource: AnyObject, Sendable {
  /// Moves what there is into `buffer`. Called again only after `wake` if it said `wait`.
  func read(into buffer: UnsafeMutableRawBufferPointer) -> ResponseSourceStep

  /// Nothing more will be read: the client is gone, or everything is sent.
  func close()
}

enum ResponseSourceStep: Sendable {
  case bytes(count: Int)
  /// Nothing yet.
  case wait
  case end
  /// The content can't be completed: the connection must break.
  case broken
}

/// Chunks on their way to libmicrohttpd. A value, guarded by its owner.
struct OutgoingQueue: Sendable {
  private var chunks: [[UInt8]] = []
  /// The first chunk that isn't read up, and how much of it is.
  private var head = 0
  private var offset = 0
  /// How many bytes wait.
  private(set) var bytes = 0

  mutating func append(_ chunk: [UInt8]) {
    guard !chunk.isEmpty else { return }
    chunks.append(chunk)
    bytes += chunk.count
  }

  /// Moves as much as fits into `buffer` and returns how much that was.
  mutating func move(into buffer: UnsafeMutableRawBufferPointer) -> Int {
    var moved = 0
    while moved < buffer.count, head < chunks.count {
      let count = min(buffer.count - moved, chunks[head].count - offset)
      chunks[head].withUnsafeBytes { chunk in
        let target = UnsafeMutableRawBufferPointer(rebasing: buffer[moved..<moved + count])
        target.copyMemory(from: UnsafeRawBufferPointer(rebasing: chunk[offset..<offset + count]))
      }
      moved += count
      offset += count
      if offset == chunks[head].count { advance() }
    }
    bytes -= moved
    return moved
  }

  mutating func clear() {
    self = OutgoingQueue()
  }

  private mutating func advance() {
    chunks[head] = []
    head += 1
    offset = 0
    // Now and then the read part is dropped, so that a queue that never runs dry doesn't grow.
    if head == chunks.count || head >= 64 {
      chunks.removeFirst(head)
      head = 0
    }
  }
}
