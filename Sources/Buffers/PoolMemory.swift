import Glibc

/// Where the memory of a pool's buffers comes from.
///
/// Small ones lie on the heap. Larger ones are mapped: in a thread's heap each would cost a system call, and each of its
/// pages a fault at the first touch, which together take longer than a small read.
enum PoolMemory {
  /// Buffers of this size and more are mapped.
  private static let mappedByteCount = 64 << 10
  /// The largest that is made ready to use at once; what is longer is hardly ever used as a whole.
  private static let populatedByteCount = 1 << 20
  private static let hugePageByteCount = 2 << 20

  static func allocate(_ byteCount: Int) -> UnsafeMutableRawPointer {
    guard byteCount >= mappedByteCount else { return .allocate(byteCount: byteCount, alignment: pageByteCount) }
    return map(byteCount, byteCount <= populatedByteCount ? MAP_POPULATE : 0)
  }

  static func free(_ base: UnsafeMutableRawPointer, byteCount: Int) {
    if byteCount >= mappedByteCount { munmap(base, byteCount) } else { base.deallocate() }
  }

  /// So many buffers of this size that lie side by side, ready to use. Each is freed by itself.
  static func allocate(_ byteCount: Int, count: Int) -> [UnsafeMutableRawPointer] {
    guard byteCount >= mappedByteCount else { return (0..<count).map { _ in allocate(byteCount) } }
    let whole = byteCount * count
    // Huge pages lie at multiples of their size: what is mapped too much before and after is given back.
    let mapped = map(whole + hugePageByteCount, 0)
    let before = -Int(bitPattern: mapped) & (hugePageByteCount - 1)
    let base = mapped + before
    if before > 0 { munmap(mapped, before) }
    munmap(base + whole, hugePageByteCount - before)
    madvise(base, whole, MADV_HUGEPAGE)
    for page in stride(from: 0, to: whole, by: pageByteCount) {
      (base + page).storeBytes(of: 0, as: UInt8.self)
    }
    return (0..<count).map { base + $0 * byteCount }
  }

  private static func map(_ byteCount: Int, _ flags: Int32) -> UnsafeMutableRawPointer {
    guard let base = mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0),
      base != MAP_FAILED
    else { fatalError("no memory for a buffer of \(byteCount) bytes") }
    return base
  }
}
