import BlockCore
import Buffers

/// A change that a crash may lose, in whole or sector by sector.
struct UnflushedChange: Sendable {
  static let sectorByteCount: UInt64 = 512

  enum Content: Sendable {
    case bytes([UInt8], UInt64)
    case zeroes(ByteRange, unmap: Bool)
    case size(UInt64)
  }

  /// How much of a change reached the disk.
  enum Survival: Sendable {
    case nothing
    case everything
    /// Each sector by itself, `likelihood` times in eight.
    case sectors(SeededRandom, likelihood: Int)
  }

  let sequence: UInt64
  let content: Content
  /// Written with FUA: it lasts whatever else is lost. It stays in the list to keep its place in the order.
  let isDurable: Bool

  /// `image` with what survives of `changes`, in order, so that of two versions of a sector the later one wins.
  static func result(
    of changes: [UnflushedChange], on image: SparseImage, survival: (_ index: Int) -> Survival
  ) -> SparseImage {
    var result = image
    for (index, change) in changes.enumerated() {
      let survival = survival(index)
      if change.isDurable {
        change.apply(to: &result)
        continue
      }
      switch survival {
      case .nothing: continue
      case .everything: change.apply(to: &result)
      case .sectors(var random, let likelihood):
        change.apply(to: &result) { random.below(8) < likelihood }
      }
    }
    return result
  }

  func apply(to image: inout SparseImage) {
    switch content {
    case .size(let byteCount): image.resize(to: byteCount)
    case .bytes(let bytes, let offset):
      Self.store(bytes, 0..<bytes.count, at: offset, to: &image)
    case .zeroes(let range, let unmap):
      Self.zero(range, unmap: unmap, in: &image)
    }
  }

  private func apply(to image: inout SparseImage, survives: () -> Bool) {
    guard let range else {
      if survives() { apply(to: &image) }
      return
    }
    var offset = range.offset
    while offset < range.end {
      let next = min(range.end, (offset / Self.sectorByteCount + 1) * Self.sectorByteCount)
      if survives() { apply(ByteRange(offset..<next), to: &image) }
      offset = next
    }
  }

  private func apply(_ part: ByteRange, to image: inout SparseImage) {
    switch content {
    case .size: return
    case .bytes(let bytes, let offset):
      let start = Int(part.offset - offset)
      Self.store(bytes, start..<start + Int(part.length), at: part.offset, to: &image)
    case .zeroes(_, let unmap):
      Self.zero(part, unmap: unmap, in: &image)
    }
  }

  private var range: ByteRange? {
    switch content {
    case .bytes(let bytes, let offset): ByteRange(offset: offset, length: UInt64(bytes.count))
    case .zeroes(let range, _): range
    case .size: nil
    }
  }

  // Where an earlier growth was lost, what lies past the end is lost with it.
  private static func store(_ bytes: [UInt8], _ part: Range<Int>, at offset: UInt64, to image: inout SparseImage) {
    guard offset < image.byteCount else { return }
    let count = Int(min(UInt64(part.count), image.byteCount - offset))
    image.write(bytes.span.bytes.extracting(part.lowerBound..<part.lowerBound + count), at: offset)
  }

  private static func zero(_ range: ByteRange, unmap: Bool, in image: inout SparseImage) {
    let whole = ByteRange(offset: 0, length: image.byteCount)
    if let part = range.intersection(whole) { image.zero(part, unmap: unmap) }
  }
}
