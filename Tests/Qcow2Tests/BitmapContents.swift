import BlockCore
import BlockTesting
import Foundation

@testable import Qcow2

/// What bitmaps call dirty, as we read them and as QEMU exports them.
extension Qcow2Image {
  /// The dirty ranges of a bitmap, joined, up to the end of the disk.
  nonisolated(nonsending)
    func dirtyRanges(of name: String) async throws -> [Range<UInt64>]
  {
    guard let entry = try await bitmaps().entry(named: Array(name.utf8)) else {
      throw Qemu.Failure(description: "there is no bitmap \(name)")
    }
    let table = try await table(of: entry)
    var bits: [UInt8] = []
    for index in 0..<table.clusterCount { bits += try await bitsOfCluster(index, of: table) }
    return rangesOfBits(bits, granularity: entry.granularityByteCount, byteCount: byteCount)
  }

  nonisolated(nonsending)
    func bitsOfCluster(_ index: Int, of table: BitmapTable) async throws -> [UInt8]
  {
    var bytes = [UInt8](repeating: 0xA5, count: clusterByteCount)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    try await readBits(ofCluster: index, of: table, into: &raw)
    return bytes
  }
}

/// The ranges for which bits are set, joined, up to the end of the disk.
func rangesOfBits(_ bits: [UInt8], granularity: UInt64, byteCount: UInt64) -> [Range<UInt64>] {
  var ranges: [Range<UInt64>] = []
  for (index, byte) in bits.enumerated() where byte != 0 {
    for bit in 0..<8 where byte >> bit & 1 == 1 {
      let start = UInt64(index * 8 + bit) * granularity
      if start >= byteCount { return ranges }
      let end = min(start + granularity, byteCount)
      if let last = ranges.last, last.upperBound == start {
        ranges[ranges.count - 1] = last.lowerBound..<end
      } else {
        ranges.append(start..<end)
      }
    }
  }
  return ranges
}

extension Qemu {
  /// The dirty ranges of a bitmap as an NBD client of qemu-nbd is told them, by every version alike.
  static func dirtyRanges(_ path: String, of name: String) throws -> [Range<UInt64>] {
    var agreed: [Range<UInt64>]?
    for version in ToolVersion.available {
      let ranges = try dirtyRanges(path, of: name, version: version)
      guard agreed ?? ranges == ranges else {
        throw Failure(description: "the versions of QEMU read bitmap \(name) of \(path) differently")
      }
      agreed = ranges
    }
    return agreed ?? []
  }

  private static func dirtyRanges(
    _ path: String, of name: String, version: ToolVersion
  ) throws -> [Range<UInt64>] {
    let server = ["[", version.path(of: "qemu-nbd"), "-r", "-f", "qcow2", "-B", name, path, "]"]
    let (status, output) = try run(
      "nbdinfo", ["--json", "--map=qemu:dirty-bitmap:\(name)", "--"] + server, version: version)
    guard status == 0, let extents = try JSONSerialization.jsonObject(with: Data(output.utf8)) as? [[String: Any]]
    else { throw Failure(description: "nbdinfo \(path) \(name): \(status)\n\(output)") }
    var ranges: [Range<UInt64>] = []
    for extent in extents {
      guard let offset = extent["offset"] as? Int, let length = extent["length"] as? Int, extent["type"] as? Int == 1
      else { continue }
      let range = UInt64(offset)..<UInt64(offset + length)
      if let last = ranges.last, last.upperBound == range.lowerBound {
        ranges[ranges.count - 1] = last.lowerBound..<range.upperBound
      } else {
        ranges.append(range)
      }
    }
    return ranges
  }

  struct BitmapState: Equatable {
    var name: String
    var granularity: Int
    var flags: Set<String>
  }

  /// The bitmaps that `qemu-img info` lists.
  static func bitmaps(_ path: String) throws -> [BitmapState] {
    let output = try image("info", "--output=json", "-f", "qcow2", path)
    guard let info = try JSONSerialization.jsonObject(with: Data(output.utf8)) as? [String: Any],
      let specific = info["format-specific"] as? [String: Any], let data = specific["data"] as? [String: Any]
    else { throw Failure(description: "qemu-img info \(path): \(output)") }
    return (data["bitmaps"] as? [[String: Any]] ?? []).map { bitmap in
      BitmapState(
        name: bitmap["name"] as? String ?? "", granularity: bitmap["granularity"] as? Int ?? 0,
        flags: Set(bitmap["flags"] as? [String] ?? []))
    }
  }
}
