import BlockCore
import BlockTesting
import Buffers

@testable import Qcow2

/// A bitmap in memory, as the caller of an image has it.
struct TestBitmap: BitmapSource, Equatable {
  var name: [UInt8]
  var granularityByteCount: UInt64
  var isAuto = true
  var isInUse = false
  /// As they are stored, without the bits of the last cluster that stand for nothing.
  var bytes: [UInt8]
  /// Fails at this cluster.
  var failure: Int?

  init(_ name: String, granularity: UInt64, byteCount: UInt64) {
    self.name = Array(name.utf8)
    granularityByteCount = granularity
    bytes = [UInt8](repeating: 0, count: Int((byteCount + granularity * 8 - 1) / (granularity * 8)))
  }

  func bits(ofCluster index: Int, into target: inout MutableRawSpan) throws(BlockError) -> ClusterOfBits {
    if index == failure { throw BlockError(.io(errno: 5), .read, cause: "no bits") }
    let count = target.byteCount
    let part = bytes[min(index * count, bytes.count)..<min((index + 1) * count, bytes.count)]
    if part.allSatisfy({ $0 == 0 }) { return .zeroes }
    if part.allSatisfy({ $0 == 0xff }) { return .ones }
    for (position, byte) in part.enumerated() {
      target.storeBytes(of: byte, toByteOffset: position, as: UInt8.self)
    }
    // What stands for nothing is the image's to clear.
    for position in part.count..<min(count, part.count + 64) {
      target.storeBytes(of: 0xff, toByteOffset: position, as: UInt8.self)
    }
    return .mixed
  }

  mutating func mark(_ range: Range<UInt64>) {
    if range.isEmpty { return }
    for bit in range.lowerBound / granularityByteCount...(range.upperBound - 1) / granularityByteCount {
      bytes[Int(bit / 8)] |= 1 << UInt8(bit % 8)
    }
  }

  func dirtyRanges(_ byteCount: UInt64) -> [Range<UInt64>] {
    rangesOfBits(bytes, granularity: granularityByteCount, byteCount: byteCount)
  }

  /// A bitmap of an image, with all its bits.
  nonisolated(nonsending)
    static func load(_ name: String, from image: Qcow2Image) async throws -> TestBitmap
  {
    guard let entry = try await image.bitmaps().entry(named: Array(name.utf8)) else {
      throw Qemu.Failure(description: "there is no bitmap \(name)")
    }
    var bitmap = TestBitmap(name, granularity: entry.granularityByteCount, byteCount: image.byteCount)
    bitmap.isAuto = entry.isAuto
    bitmap.isInUse = entry.isInUse
    let table = try await image.table(of: entry)
    var bits: [UInt8] = []
    for index in 0..<table.clusterCount { bits += try await image.bitsOfCluster(index, of: table) }
    bits += [UInt8](repeating: 0, count: max(0, bitmap.bytes.count - bits.count))
    bitmap.bytes = Array(bits[..<bitmap.bytes.count])
    return bitmap
  }
}

extension Set<[UInt8]> {
  static func names(_ names: String...) -> Set<[UInt8]> { Set(names.map { Array($0.utf8) }) }
}

/// Opens an image to be written, its bitmaps to be kept.
nonisolated(nonsending)
  func openToKeepBitmaps(_ file: any BlockDevice, cacheByteCount: Int = 64 << 10) async throws -> Qcow2Image
{
  var options = Qcow2Image.OpenOptions(
    isReadOnly: false, mappingCacheByteCount: cacheByteCount, refcountCacheByteCount: cacheByteCount)
  options.bitmaps = .keep
  return try await Qcow2Image.open(file, options: options, work: InlineWork(), pool: pool)
}
