import Locks

/// Lends page-aligned buffers and keeps a bounded amount of returned ones for the next taker.
///
/// Sizes are rounded up to powers of two of whole pages, so a returned buffer fits many later wishes.
/// Any thread may take and give back.
package final class BufferPool: Sendable {
  private struct Shelves {
    // Index = log2(byteCount / pageByteCount).
    var free: [[UnsafeMutableRawPointer]] = Array(repeating: [], count: BufferPool.shelfCount)
    var cachedByteCount = 0
    var lentByteCount = 0
  }

  /// The largest size kept for reuse is 2^(shelfCount − 1) pages = 32 MiB.
  private static let shelfCount = 14

  private let shelves = Lock(Shelves())
  private let maximumCachedByteCount: Int

  /// - Parameter maximumCachedByteCount: returned memory beyond this is given to the system at once.
  package init(maximumCachedByteCount: Int = 32 << 20) {
    self.maximumCachedByteCount = maximumCachedByteCount
  }

  deinit {
    shelves.withLock { for shelf in $0.free { for base in shelf { base.deallocate() } } }
  }

  /// A buffer of at least `byteCount` bytes; its contents are undefined.
  package func take(_ byteCount: Int) -> PageBuffer {
    let shelf = Self.shelf(for: byteCount)
    let size = pageByteCount << shelf
    let reused: UInt = shelves.withLock { shelves in
      shelves.lentByteCount += size
      guard shelf < Self.shelfCount, let base = shelves.free[shelf].popLast() else { return 0 }
      shelves.cachedByteCount -= size
      return UInt(bitPattern: base)
    }
    let base =
      UnsafeMutableRawPointer(bitPattern: reused) ?? .allocate(byteCount: size, alignment: pageByteCount)
    return PageBuffer(base: base, byteCount: size, pool: self)
  }

  func takeBack(_ base: UnsafeMutableRawPointer, byteCount: Int) {
    let shelf = Self.shelf(for: byteCount)
    let address = UInt(bitPattern: base)
    let kept = shelves.withLock { shelves in
      shelves.lentByteCount -= byteCount
      guard shelf < Self.shelfCount, shelves.cachedByteCount + byteCount <= maximumCachedByteCount,
        let base = UnsafeMutableRawPointer(bitPattern: address)
      else { return false }
      shelves.free[shelf].append(base)
      shelves.cachedByteCount += byteCount
      return true
    }
    if !kept { base.deallocate() }
  }

  /// Bytes in buffers that are out with an owner; zero when nothing leaks.
  package var lentByteCount: Int { shelves.withLock { $0.lentByteCount } }

  /// Bytes kept for the next taker; never more than the pool's maximum.
  package var cachedByteCount: Int { shelves.withLock { $0.cachedByteCount } }

  private static func shelf(for byteCount: Int) -> Int {
    let pages = roundedToPages(byteCount) / pageByteCount
    return pages == 1 ? 0 : Int.bitWidth - (pages - 1).leadingZeroBitCount
  }
}
