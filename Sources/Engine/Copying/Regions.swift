import BlockCore

/// A stretch of a disk, and what is known of it before it is read.
package struct Region: Hashable, Sendable {
  package enum Content: Hashable, Sendable {
    /// To be read: not known to be zero.
    case data
    /// Reads as zeroes for certain.
    case zeroes
    /// What the target has already.
    case unchanged
  }

  package var range: ByteRange
  package var content: Content

  package init(range: ByteRange, content: Content) {
    self.range = range
    self.content = content
  }
}

/// What a copy goes through: where the regions of a disk come from, a few at a time.
///
/// They come in any order and each byte once; those that share a grain or a cluster (``ChunkGeometry/unit``) follow one
/// another in the order of the disk. Where nothing can be said it is data. Confined to the copy that asks.
package protocol Regions: Sendable {
  /// The next region; nil at the end.
  /// - Parameter checkpoint: called before each question that may take long.
  nonisolated(nonsending)
    mutating func next(_ checkpoint: () async throws -> Void) async throws -> Region?
}

/// A stretch of a device as its block status has it, asked for page by page.
package struct BlockStatusRegions: Regions {
  /// Extents asked for at once.
  private static let extentsPerPage = 512

  private let device: any BlockDevice
  private let end: UInt64
  private var position: UInt64
  private var extents: ArraySlice<Extent> = []

  package init(_ device: any BlockDevice, _ range: ByteRange) {
    self.device = device
    position = range.offset
    end = range.end
  }

  nonisolated(nonsending)
    package mutating func next(_ checkpoint: () async throws -> Void) async throws -> Region?
  {
    guard position < end else { return nil }
    while let first = extents.first, first.range.end <= position { extents.removeFirst() }
    if extents.isEmpty {
      try await checkpoint()
      extents = try await device.blockStatus(ByteRange(position..<end), limit: Self.extentsPerPage)[...]
      guard let last = extents.last, last.range.end > position else {
        throw BlockError(.corrupt("its block status doesn't get on at byte \(position)"), .blockStatus)
      }
      while let first = extents.first, first.range.end <= position { extents.removeFirst() }
    }
    guard let extent = extents.first else { return nil }
    let start = position
    // What an answer leaves out may hold anything.
    let isTold = extent.range.offset <= start
    position = min(end, isTold ? extent.range.end : extent.range.offset)
    return Region(range: ByteRange(start..<position), content: isTold && extent.readsAsZero ? .zeroes : .data)
  }
}

/// Some ranges of a device, such as those that changed, as its block status has them; all else is unchanged.
package struct RangeRegions: Regions {
  private let device: any BlockDevice
  private let byteCount: UInt64
  private var ranges: ArraySlice<ByteRange>
  private var inner: BlockStatusRegions?
  private var position: UInt64 = 0

  /// - Parameters:
  ///   - ranges: in order and apart from each other, within `byteCount`.
  ///   - byteCount: how much of the device there is to copy.
  package init(_ ranges: [ByteRange], of device: any BlockDevice, byteCount: UInt64) {
    self.ranges = ranges[...]
    self.device = device
    self.byteCount = byteCount
  }

  nonisolated(nonsending)
    package mutating func next(_ checkpoint: () async throws -> Void) async throws -> Region?
  {
    while true {
      if inner != nil {
        if let region = try await inner?.next(checkpoint) { return region }
        inner = nil
      }
      while ranges.first?.isEmpty == true { ranges.removeFirst() }
      let start = position
      guard let range = ranges.first else {
        position = byteCount
        return start < byteCount ? Region(range: ByteRange(start..<byteCount), content: .unchanged) : nil
      }
      if range.offset > start {
        position = range.offset
        return Region(range: ByteRange(start..<position), content: .unchanged)
      }
      ranges.removeFirst()
      position = range.end
      inner = BlockStatusRegions(device, range)
    }
  }
}
