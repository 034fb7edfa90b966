/// The unit of alignment for all I/O memory: what O_DIRECT asks of the strictest common device.
package let pageByteCount = 4096

/// Page-aligned memory with exactly one owner; it goes back to its pool when the owner ends.
///
/// The contents are whatever the last user left there: read only what was written.
package struct PageBuffer: ~Copyable {
  private let base: UnsafeMutableRawPointer
  /// A multiple of ``pageByteCount``.
  package let byteCount: Int
  private let pool: BufferPool?

  init(base: UnsafeMutableRawPointer, byteCount: Int, pool: BufferPool?) {
    self.base = base
    self.byteCount = byteCount
    self.pool = pool
  }

  /// A buffer outside any pool, freed when its owner ends. Its bytes are zero.
  package init(byteCount: Int) {
    let size = roundedToPages(byteCount)
    base = .allocate(byteCount: size, alignment: pageByteCount)
    base.initializeMemory(as: UInt8.self, repeating: 0, count: size)
    self.byteCount = size
    pool = nil
  }

  deinit {
    if let pool { pool.takeBack(base, byteCount: byteCount) } else { base.deallocate() }
  }

  /// All bytes, to read.
  package var bytes: RawSpan {
    @_lifetime(borrow self)
    get { _overrideLifetime(RawSpan(_unsafeStart: base, byteCount: byteCount), borrowing: self) }
  }

  /// All bytes, to change.
  package var mutableBytes: MutableRawSpan {
    @_lifetime(&self)
    mutating get { _overrideLifetime(MutableRawSpan(_unsafeStart: base, byteCount: byteCount), mutating: &self) }
  }
}

/// `byteCount` rounded up to whole pages, at least one.
func roundedToPages(_ byteCount: Int) -> Int {
  precondition(byteCount >= 0)
  return max(1, (byteCount + pageByteCount - 1) / pageByteCount) * pageByteCount
}
