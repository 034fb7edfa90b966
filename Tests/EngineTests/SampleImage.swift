import BlockTesting
import Foundation
import Model

/// A guest's disk for tests, and the files that hold it.
struct SampleImage {
  static let mebibyte: UInt64 = 1 << 20

  /// Makes a raw, sparse file: runs of random bytes, of text, of stored zeroes, and holes, up to the last byte.
  static func raw(at path: String, byteCount: UInt64, seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    var image = SparseImage(byteCount: byteCount)
    var offset: UInt64 = 0
    while offset < byteCount {
      let wanted = UInt64(1 + random.below(24)) * 13_000
      let count = Int(min(wanted, byteCount - offset))
      switch random.below(4) {
      case 0:
        let noise = random.bytes(count)
        image.write(noise.span.bytes, at: offset)
      case 1:
        let text = Array("Backups that can't be restored are none. \(offset) ".utf8)
        let repeated = (0..<count).map { text[$0 % text.count] }
        image.write(repeated.span.bytes, at: offset)
      case 2:
        let zeroes = [UInt8](repeating: 0, count: count)
        image.write(zeroes.span.bytes, at: offset)
      default: break
      }
      offset += UInt64(count)
    }
    let tail = random.bytes(Int(min(700, byteCount)))
    image.write(tail.span.bytes, at: byteCount - UInt64(tail.count))
    try image.dump(to: path)
  }

  static func bytes(_ path: String) throws -> Data { try Data(contentsOf: URL(fileURLWithPath: path)) }

  /// Bytes of the blocks of a file that hold anything but zeroes.
  static func dataByteCount(_ path: String, blockByteCount: Int) throws -> UInt64 {
    let bytes = try bytes(path)
    return stride(from: 0, to: bytes.count, by: blockByteCount).reduce(0) { sum, start in
      let block = bytes[start..<min(start + blockByteCount, bytes.count)]
      return sum + (block.allSatisfy { $0 == 0 } ? 0 : UInt64(block.count))
    }
  }

  /// Changes one byte of a file in place.
  static func damage(_ path: String, at offset: UInt64) throws {
    let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
    defer { try? file.close() }
    try file.seek(toOffset: offset)
    guard let byte = try file.read(upToCount: 1)?.first else { throw Tool.Failure(description: "no byte at \(offset)") }
    try file.seek(toOffset: offset)
    try file.write(contentsOf: Data([byte ^ 0x10]))
  }

  static func byteCount(_ path: String) throws -> UInt64 {
    let attributes = try FileManager.default.attributesOfItem(atPath: path)
    return (attributes[.size] as? NSNumber)?.uint64Value ?? 0
  }
}
