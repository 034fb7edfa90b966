import Bytes

/// The bitmaps extension and the directory that it points to (qcow2.txt, "Bitmaps extension", "Bitmaps").
///
/// The header extension names the directory; each of its entries, of variable length, names a bitmap's table, whose
/// entries name clusters of bits, or say that all their bits are 0 or 1. All these clusters are counted like others.
struct BitmapDirectory: Hashable, Sendable {
  static let extensionByteCount = 24
  static let fixedByteCount = 24
  static let maximumBitmapCount = 65535
  /// What QEMU bounds the directory to as well: every entry at its longest would be 64 MiB.
  static let maximumByteCount = 64 << 20

  var bitmapCount: Int
  var byteCount: UInt64
  var offset: UInt64

  init(bitmapCount: Int, byteCount: UInt64, offset: UInt64) {
    self.bitmapCount = bitmapCount
    self.byteCount = byteCount
    self.offset = offset
  }

  /// Decodes the contents of the header extension.
  init(decoding contents: [UInt8]) throws(Qcow2Error) {
    guard contents.count == Self.extensionByteCount else {
      throw .damaged("bitmaps extension: \(contents.count) bytes, not \(Self.extensionByteCount)")
    }
    let bytes = contents.span.bytes
    bitmapCount = Int(bytes.bigEndian(UInt32.self, at: 0))
    byteCount = bytes.bigEndian(at: 8)
    offset = bytes.bigEndian(at: 16)
    guard bitmapCount >= 1, bitmapCount <= Self.maximumBitmapCount, byteCount <= UInt64(Self.maximumByteCount) else {
      throw .damaged("bitmaps extension: \(bitmapCount) bitmaps in a directory of \(byteCount) bytes")
    }
  }

  /// The contents of the header extension.
  func encoded() -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(bigEndian: UInt32(bitmapCount))
    bytes.append(bigEndian: UInt32(0))
    bytes.append(bigEndian: byteCount)
    bytes.append(bigEndian: offset)
    return bytes
  }
}
