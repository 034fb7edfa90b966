import BlockCore
import BlockTesting
import Glibc

/// What a guest with several requests in flight may find on its disk. A byte that two changes in flight have in common is
/// uncertain until a later change has it alone.
final class GuestModel: @unchecked Sendable {
  // Safe to hand over: confined to the story's loop.

  /// A change in flight.
  final class Change {
    let range: ByteRange
    fileprivate var contested: [ByteRange] = []

    init(_ range: ByteRange) { self.range = range }
  }

  /// A read in flight.
  final class Read {
    let range: ByteRange
    fileprivate var mask: Mask

    fileprivate init(_ range: ByteRange, _ mask: Mask) {
      self.range = range
      self.mask = mask
    }
  }

  /// Which bytes of a range are certain: 1, or 0 where they aren't.
  fileprivate struct Mask {
    private(set) var flags: [UInt8]
    let offset: UInt64

    init(_ range: ByteRange, isCertain: Bool) {
      flags = [UInt8](repeating: isCertain ? 1 : 0, count: Int(range.length))
      offset = range.offset
    }

    init(_ range: ByteRange, of other: Mask) {
      flags = Array(other.flags[Int(range.offset - other.offset)..<Int(range.end - other.offset)])
      offset = range.offset
    }

    mutating func set(_ range: ByteRange, isCertain: Bool) {
      flags.withUnsafeMutableBytes { flags in
        _ = memset(flags.baseAddress! + Int(range.offset - offset), isCertain ? 1 : 0, Int(range.length))
      }
    }
  }

  private var bytes: ByteModel
  private var mask: Mask
  private var changes: [Change] = []
  private var reads: [Read] = []

  /// - Parameter image: what the disk holds at first; zeroes follow.
  init(_ image: SparseImage, byteCount: UInt64) {
    var model = ByteModel(byteCount: byteCount)
    image.forEachDataBlock { offset, block in model.write(block.withUnsafeBytes { Array($0) }, at: offset) }
    bytes = model
    mask = Mask(ByteRange(offset: 0, length: byteCount), isCertain: true)
  }

  func begin(_ range: ByteRange) -> Change {
    let change = Change(range)
    for other in changes {
      guard let both = other.range.intersection(range) else { continue }
      other.contested.append(both)
      change.contested.append(both)
    }
    changes.append(change)
    for read in reads {
      if let both = read.range.intersection(range) { read.mask.set(both, isCertain: false) }
    }
    return change
  }

  /// - Parameter written: what the range holds now; nil if that isn't known.
  func end(_ change: Change, _ written: [UInt8]?) {
    changes.removeAll { $0 === change }
    mask.set(change.range, isCertain: written != nil)
    if let written { bytes.write(written, at: change.range.offset) }
    for range in change.contested { mask.set(range, isCertain: false) }
  }

  func beginRead(_ range: ByteRange) -> Read {
    let read = Read(range, Mask(range, of: mask))
    for change in changes {
      if let both = change.range.intersection(range) { read.mask.set(both, isCertain: false) }
    }
    reads.append(read)
    return read
  }

  /// Throws if what was found can't be.
  func end(_ read: Read, found: [UInt8]?, _ what: String) throws {
    reads.removeAll { $0 === read }
    guard let found, bytes.firstDifference(from: found, at: read.range.offset) != nil else { return }
    for index in found.indices where read.mask.flags[index] == 1 {
      let offset = Int(read.range.offset) + index
      if found[index] != bytes.bytes[offset] {
        throw ConformanceFailure(
          "\(what): the guest finds \(found[index]) at byte \(offset), not \(bytes.bytes[offset])")
      }
    }
  }
}
