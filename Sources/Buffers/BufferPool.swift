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
    shelves.withLock {
      for (shelf, free) in $0.free.enumerated() {
        for base in free { PoolMemory.free(base, byteCount: pageByteCount << shelf) }
      }
    }
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
    let base = UnsafeMutableRawPointer(bitPattern: reused) ?? PoolMemory.allocate(size)
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
    if !kept { PoolMemory.free(base, byteCount: byteCount) }
  }

  // MARK: Stock

  /// Makes buffers of at least `byteCount` bytes, ready to use, until the next `count` takers find one, or the pool keeps
  /// no more. It takes the time that clearing their memory takes: not for an event loop.
  package func stock(_ byteCount: Int, count: Int) {
    let shelf = Self.shelf(for: byteCount)
    guard shelf < Self.shelfCount else { return }
    let size = pageByteCount << shelf
    let wanted = shelves.withLock { shelves in
      min(count - shelves.free[shelf].count, (maximumCachedByteCount - shelves.cachedByteCount) / size)
    }
    guard wanted > 0 else { return }
    let made = PoolMemory.allocate(size, count: wanted).map { UInt(bitPattern: $0) }
    let surplus = shelves.withLock { shelves in
      made.filter { address in
        guard shelves.cachedByteCount + size <= maximumCachedByteCount,
          let base = UnsafeMutableRawPointer(bitPattern: address)
        else { return true }
        shelves.free[shelf].append(base)
        shelves.cachedByteCount += size
        return false
      }
    }
    for address in surplus {
      if let base = UnsafeMutableRawPointer(bitPattern: address) { PoolMemory.free(base, byteCount: size) }
    }
  }

  /// How many takers of at least `byteCount` bytes would find a buffer.
  package func stockCount(of byteCount: Int) -> Int {
    let shelf = Self.shelf(for: byteCount)
    return shelf < Self.shelfCount ? shelves.withLock { $0.free[shelf].count } : 0
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
