import BlockCore
import Bytes

/// Which granules of a disk changed, in memory that outlives the process.
///
/// A header, a byte for the state of each page of bits, and the pages, of which each is assigned when a bit of it is first
/// set. Where none can be had, the page is *missing*: something in its part of the disk changed, and another record says
/// what. All that a reader needs is in the memory itself.
///
/// Bits are set before the change that they tell of is submitted, by plain stores: what the process has stored is there
/// once it was killed. After a power loss nothing of it is.
package final class RecordingMap: @unchecked Sendable {
  // Safe to hand over: confined to the loop of its disk, and the memory is its own.

  /// Where things lie in the memory.
  package struct Layout: Hashable, Sendable {
    package static let pageByteCount = 4096
    private static let headerByteCount = 4096

    /// Bytes of the disk.
    package let diskByteCount: UInt64
    package let granularity: UInt64

    /// - Precondition: `DirtyBitmap.isPossible(granularity:byteCount:)`.
    package init(diskByteCount: UInt64, granularity: UInt64) {
      precondition(DirtyBitmap.isPossible(granularity: granularity, byteCount: diskByteCount))
      self.diskByteCount = diskByteCount
      self.granularity = granularity
    }

    /// Bytes of the disk that a page tells of.
    package var pageSpan: UInt64 { granularity * UInt64(Self.pageByteCount * 8) }
    package var pageCount: Int { Int((diskByteCount + pageSpan - 1) / pageSpan) }
    /// What stands before the pages, and is there from the start.
    package var leadingByteCount: Int {
      Self.headerByteCount + (pageCount + Self.pageByteCount - 1) / Self.pageByteCount * Self.pageByteCount
    }
    package var byteCount: Int { leadingByteCount + pageCount * Self.pageByteCount }

    func state(of page: Int) -> Int { Self.headerByteCount + page }
    func offset(of page: Int) -> Int { leadingByteCount + page * Self.pageByteCount }
    package func range(of page: Int) -> ByteRange {
      let start = UInt64(page) * pageSpan
      return ByteRange(start..<min(diskByteCount, start + pageSpan))
    }
  }

  private enum PageState {
    static let unused: UInt8 = 0
    static let assigned: UInt8 = 1
    static let missing: UInt8 = 2
  }

  private enum Field {
    static let magic = 0
    static let session = 8
    static let record = 16
    static let diskByteCount = 32
    static let granularity = 40
    static let lastChange = 48
  }

  private static let magic: UInt64 = 0x436F_6277_6542_4D31

  package let layout: Layout
  package let record: UInt128
  package let session: UInt64
  private let memory: UnsafeMutableRawPointer
  private let granuleShift: UInt64
  private let assign: (Int) -> Bool

  /// A map in which nothing has changed.
  /// - Parameters:
  ///   - memory: zeroes, `layout.byteCount` of them. What stands before the pages is usable; it outlives the map.
  ///   - assign: has the page at that offset be usable from now on; false where it can't.
  package init(
    _ layout: Layout, record: UInt128, session: UInt64, in memory: UnsafeMutableRawPointer,
    assign: @escaping (Int) -> Bool
  ) {
    self.layout = layout
    self.record = record
    self.session = session
    self.memory = memory
    self.assign = assign
    granuleShift = UInt64(layout.granularity.trailingZeroBitCount)
    memory.storeBytes(of: record, toByteOffset: Field.record, as: UInt128.self)
    memory.storeBytes(of: session, toByteOffset: Field.session, as: UInt64.self)
    memory.storeBytes(of: layout.diskByteCount, toByteOffset: Field.diskByteCount, as: UInt64.self)
    memory.storeBytes(of: layout.granularity, toByteOffset: Field.granularity, as: UInt64.self)
    memory.storeBytes(of: Self.magic, toByteOffset: Field.magic, as: UInt64.self)
  }

  /// A map that another process left, to be read. Nil if the memory holds none.
  /// - Parameter byteCount: of the memory.
  package init?(reading memory: UnsafeMutableRawPointer, byteCount: Int) {
    guard byteCount >= Layout.pageByteCount, memory.load(fromByteOffset: Field.magic, as: UInt64.self) == Self.magic
    else { return nil }
    let (disk, granularity) = (
      memory.load(fromByteOffset: Field.diskByteCount, as: UInt64.self),
      memory.load(fromByteOffset: Field.granularity, as: UInt64.self)
    )
    guard DirtyBitmap.isPossible(granularity: granularity, byteCount: disk) else { return nil }
    layout = Layout(diskByteCount: disk, granularity: granularity)
    guard byteCount >= layout.byteCount else { return nil }
    record = memory.load(fromByteOffset: Field.record, as: UInt128.self)
    session = memory.load(fromByteOffset: Field.session, as: UInt64.self)
    self.memory = memory
    assign = { _ in false }
    granuleShift = UInt64(granularity.trailingZeroBitCount)
  }

  /// When the disk was last changed or written back, in seconds since 1970; 0 before that.
  package var lastChange: Int64 {
    get { memory.load(fromByteOffset: Field.lastChange, as: Int64.self) }
    set { memory.storeBytes(of: newValue, toByteOffset: Field.lastChange, as: Int64.self) }
  }

  /// Sets the bits of all granules that have a byte of the range; what lies beyond the disk is left out.
  package func set(_ range: ByteRange) {
    let end = min(range.end, layout.diskByteCount)
    guard range.offset < end else { return }
    var granule = Int(range.offset >> granuleShift)
    let last = Int((end - 1) >> granuleShift)
    let pageBits = Layout.pageByteCount * 8
    while granule <= last {
      let page = granule / pageBits
      let lastOfPage = min(last, (page + 1) * pageBits - 1)
      if isUsable(page) { setBits(granule % pageBits...lastOfPage % pageBits, at: layout.offset(of: page)) }
      granule = lastOfPage + 1
    }
  }

  private func isUsable(_ page: Int) -> Bool {
    let state = memory.load(fromByteOffset: layout.state(of: page), as: UInt8.self)
    if state == PageState.assigned { return true }
    if state == PageState.missing { return false }
    let isAssigned = assign(layout.offset(of: page))
    memory.storeBytes(
      of: isAssigned ? PageState.assigned : PageState.missing, toByteOffset: layout.state(of: page), as: UInt8.self)
    return isAssigned
  }

  private func setBits(_ bits: ClosedRange<Int>, at offset: Int) {
    var bit = bits.lowerBound
    while bit <= bits.upperBound {
      let place = offset + bit / 8
      if bit % 8 == 0, bits.upperBound - bit >= 7 {
        memory.storeBytes(of: 0xFF, toByteOffset: place, as: UInt8.self)
        bit += 8
      } else {
        let byte = memory.load(fromByteOffset: place, as: UInt8.self)
        memory.storeBytes(of: byte | 1 << UInt8(bit % 8), toByteOffset: place, as: UInt8.self)
        bit += 1
      }
    }
  }

  /// All that is recorded, as a value.
  package var recorded: RecordedChanges {
    var recorded = RecordedChanges(layout: layout)
    for page in 0..<layout.pageCount {
      switch memory.load(fromByteOffset: layout.state(of: page), as: UInt8.self) {
      case PageState.unused: continue
      case PageState.assigned:
        let bytes = UnsafeRawBufferPointer(start: memory + layout.offset(of: page), count: Layout.pageByteCount)
        recorded.pages.append((page, Array(bytes)))
      default: recorded.missing.append(layout.range(of: page))
      }
    }
    return recorded
  }
}

/// What a ``RecordingMap`` held at a moment.
package struct RecordedChanges: Sendable {
  package let layout: RecordingMap.Layout
  /// Each with its number, in order.
  package var pages: [(number: Int, bits: [UInt8])] = []
  /// Parts of the disk of which nothing more is known here than that something changed in them.
  package var missing: [ByteRange] = []

  package init(layout: RecordingMap.Layout) { self.layout = layout }

  /// Makes dirty what changed, as far as it is known here.
  package func form(_ bitmap: inout DirtyBitmap) {
    var own = DirtyBitmap(byteCount: layout.diskByteCount, granularity: layout.granularity)
    for (number, bits) in pages {
      own.set(bits: bits.span.bytes, fromByte: UInt64(number * RecordingMap.Layout.pageByteCount))
    }
    bitmap.formUnion(own)
  }
}
