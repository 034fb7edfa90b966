import BlockCore
import Glibc

/// What a device must read as: plain bytes, changed by the same operations.
package struct ByteModel: Sendable {
  package private(set) var bytes: [UInt8]

  package init(byteCount: UInt64) { bytes = [UInt8](repeating: 0, count: Int(byteCount)) }

  package mutating func write(_ source: [UInt8], at offset: UInt64) {
    guard !source.isEmpty else { return }
    bytes.withUnsafeMutableBytes { target in
      source.withUnsafeBytes { _ = memcpy(target.baseAddress! + Int(offset), $0.baseAddress!, source.count) }
    }
  }

  package mutating func zero(_ range: ByteRange) {
    guard !range.isEmpty else { return }
    bytes.withUnsafeMutableBytes { _ = memset($0.baseAddress! + Int(range.offset), 0, Int(range.length)) }
  }

  package mutating func resize(to byteCount: UInt64) {
    let count = Int(byteCount)
    if count < bytes.count {
      bytes.removeLast(bytes.count - count)
    } else {
      bytes += [UInt8](repeating: 0, count: count - bytes.count)
    }
  }

  /// Where `found`, read at `offset`, first differs; nil if it is as it must be.
  package func firstDifference(from found: [UInt8], at offset: UInt64) -> UInt64? {
    let same = bytes.withUnsafeBytes { expected in
      found.withUnsafeBytes {
        $0.isEmpty || memcmp(expected.baseAddress! + Int(offset), $0.baseAddress!, $0.count) == 0
      }
    }
    if same { return nil }
    let index = found.indices.first { found[$0] != bytes[Int(offset) + $0] }
    return index.map { offset + UInt64($0) }
  }

  /// Throws unless the device has this size and these bytes.
  package func check(
    _ device: any BlockDevice, _ what: String, fileID: StaticString = #fileID, line: UInt = #line
  ) async throws {
    if device.byteCount != UInt64(bytes.count) {
      throw ConformanceFailure("\(what): size \(device.byteCount), not \(bytes.count)", fileID: fileID, line: line)
    }
    let all = ByteRange(offset: 0, length: UInt64(bytes.count))
    try await check(device, all, what, fileID: fileID, line: line)
  }

  /// Throws unless the device has these bytes in `range`.
  package func check(
    _ device: any BlockDevice, _ range: ByteRange, _ what: String, fileID: StaticString = #fileID, line: UInt = #line
  ) async throws {
    let found = try await device.readBytes(Int(range.length), at: range.offset)
    guard let place = firstDifference(from: found, at: range.offset) else { return }
    let byte = found[Int(place - range.offset)]
    throw ConformanceFailure(
      "\(what): byte \(place) reads \(byte), not \(bytes[Int(place)]), in \(range)", fileID: fileID, line: line)
  }
}
