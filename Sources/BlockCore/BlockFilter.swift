/// What a change does that passes a ``BlockFilter``.
package enum BlockChange: Hashable, Sendable {
  case write(WriteOptions)
  case writeZeroes(ZeroOptions)
  case discard
  /// To that many bytes; its range is what comes to be or ceases to be.
  case resize(to: UInt64)

  package var operation: BlockError.Operation {
    switch self {
    case .write: .write
    case .writeZeroes: .writeZeroes
    case .discard: .discard
    case .resize: .resize
    }
  }
}

/// A device that stands before another one and passes on what it doesn't alter.
///
/// Reads, flushes and status go to `next` unless the filter answers them itself. Every change comes to ``change(_:_:_:)``,
/// so a filter that has to see changes can't forget a kind of them, nor one that is added later. What a filter can say
/// without waiting it may say in ``tryBegin(_:_:)``, which is asked first. ``PipeSource`` isn't passed on: bytes in a
/// pipe follow later writes, which only some filters may allow.
package protocol BlockFilter: BlockDevice {
  /// Where requests go that begin from now on.
  var next: any BlockDevice { get }

  /// Makes a change, whose request is one that `next` would take: by one call of `perform` with the whole range, by
  /// several with its parts in order, or by none, with an error.
  ///
  /// - Parameters:
  ///   - range: what changes; of a resize what comes to be or ceases to be, and never split.
  ///   - perform: makes the change of a part in `next`.
  func change(
    _ kind: BlockChange, _ range: ByteRange,
    _ perform: (ByteRange) async throws(BlockError) -> Void
  ) async throws(BlockError)

  /// Begins a change that passes whole and at once: true, and ``ended(_:_:)`` follows when it has ended, however.
  /// False, without an effect, where ``change(_:_:_:)`` has to make it; that is the default.
  func tryBegin(_ kind: BlockChange, _ range: ByteRange) -> Bool

  /// A change has ended that ``tryBegin(_:_:)`` let pass.
  func ended(_ kind: BlockChange, _ range: ByteRange)
}

extension BlockFilter {
  @inlinable package func tryBegin(_ kind: BlockChange, _ range: ByteRange) -> Bool { false }
  @inlinable package func ended(_ kind: BlockChange, _ range: ByteRange) {}

  @inlinable package var byteCount: UInt64 { next.byteCount }
  @inlinable package var limits: BlockLimits { next.limits }
  @inlinable package var isReadOnly: Bool { next.isReadOnly }

  @inlinable
  package func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    try next.tryRead(into: &buffer, at: offset)
  }

  @inlinable
  package func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError) {
    try await next.read(into: &buffer, at: offset)
  }

  @inlinable
  package func flush() async throws(BlockError) {
    try await next.flush()
  }

  @inlinable
  package func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
    try await next.blockStatus(range, limit: limit)
  }

  @inlinable
  package func close() async throws(BlockError) {
    try await next.close()
  }

  // MARK: Changes

  @inlinable
  package func write(_ bytes: RawSpan, at offset: UInt64, options: WriteOptions) async throws(BlockError) {
    try checkRequest(.write, at: offset, length: UInt64(bytes.byteCount))
    let range = ByteRange(offset: offset, length: UInt64(bytes.byteCount))
    if tryBegin(.write(options), range) {
      defer { ended(.write(options), range) }
      return try await next.write(bytes, at: offset, options: options)
    }
    try await change(.write(options), range) { (part) async throws(BlockError) in
      let start = Int(part.offset - offset)
      try await next.write(bytes.extracting(start..<start + Int(part.length)), at: part.offset, options: options)
    }
  }

  @inlinable
  package func writeZeroes(_ range: ByteRange, options: ZeroOptions) async throws(BlockError) {
    try checkRequest(.writeZeroes, at: range.offset, length: range.length)
    if tryBegin(.writeZeroes(options), range) {
      defer { ended(.writeZeroes(options), range) }
      return try await next.writeZeroes(range, options: options)
    }
    try await change(.writeZeroes(options), range) { (part) async throws(BlockError) in
      try await next.writeZeroes(part, options: options)
    }
  }

  @inlinable
  package func discard(_ range: ByteRange) async throws(BlockError) {
    try checkRequest(.discard, at: range.offset, length: range.length)
    if tryBegin(.discard, range) {
      defer { ended(.discard, range) }
      return try await next.discard(range)
    }
    try await change(.discard, range) { (part) async throws(BlockError) in try await next.discard(part) }
  }

  @inlinable
  package func resize(to byteCount: UInt64) async throws(BlockError) {
    let range = ByteRange(min(byteCount, self.byteCount)..<max(byteCount, self.byteCount))
    if tryBegin(.resize(to: byteCount), range) {
      defer { ended(.resize(to: byteCount), range) }
      return try await next.resize(to: byteCount)
    }
    try await change(.resize(to: byteCount), range) { (_) async throws(BlockError) in
      try await next.resize(to: byteCount)
    }
  }
}
