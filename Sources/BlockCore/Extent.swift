/// What a device says of a run of bytes without reading it.
package struct Extent: Hashable, Sendable {
  package struct Status: OptionSet, Hashable, Sendable {
    package let rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }

    /// Reads as zeroes for certain. Without it the bytes are data, or merely not known to be zero.
    package static let zero = Status(rawValue: 1)
    /// Takes no storage of its own in this device's chain: a hole, or allocated nowhere.
    package static let hole = Status(rawValue: 2)
    /// Stored compressed: it must be read and written through the format.
    package static let compressed = Status(rawValue: 4)
  }

  package var range: ByteRange
  package var status: Status
  /// The layer that answers: 1 = this device, 2 = its backing file, …; 0 = no layer holds anything here.
  package var depth: Int

  package init(range: ByteRange, status: Status, depth: Int) {
    self.range = range
    self.status = status
    self.depth = depth
  }

  package var readsAsZero: Bool { status.contains(.zero) }

  /// True if `next` follows directly and says the same, so that both can be told as one.
  package func continues(with next: Extent) -> Bool {
    range.end == next.range.offset && status == next.status && depth == next.depth
  }
}

extension [Extent] {
  /// Appends `extent`, joined with the last one where it says the same of the bytes right behind it.
  package mutating func appendMerging(_ extent: Extent) {
    guard !extent.range.isEmpty else { return }
    if let last, last.continues(with: extent) {
      self[count - 1].range.length += extent.range.length
    } else {
      append(extent)
    }
  }
}
