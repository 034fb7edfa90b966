import Bytes
import BlockCore
import Buffers

/// Reads a bitmap directory entry by entry, in pieces: all its names together may take 64 MiB.
struct BitmapDirectoryReader {
  /// So much of the directory is kept in memory.
  private static let pieceByteCount = 256 << 10

  let directory: BitmapDirectory
  /// Extra data and longer names than QEMU's are read too; without them an entry can't be written again.
  private let isWhole: Bool
  private let file: any BlockDevice
  private let pool: BufferPool
  private var number = 0
  /// Where the next entry begins in the directory.
  private var position: UInt64 = 0
  private var piece: [UInt8] = []
  private var pieceStart: UInt64 = 0

  /// Nil for an image without bitmaps.
  init?(
    _ header: Qcow2Header, _ file: any BlockDevice, _ pool: BufferPool, whole isWhole: Bool = false
  ) throws(Qcow2Error) {
    guard let directory = try header.bitmapDirectory() else { return nil }
    let (end, overflow) = directory.offset.addingReportingOverflow(directory.byteCount)
    guard !overflow, end <= file.byteCount else {
      throw .damaged("bitmaps extension: the directory at \(directory.offset) reaches past the end of the file")
    }
    self.directory = directory
    self.isWhole = isWhole
    self.file = file
    self.pool = pool
  }

  /// The next entry, or nil after the last one.
  mutating func next() async throws(Qcow2Error) -> BitmapEntry? {
    guard number < directory.bitmapCount else { return nil }
    let start = try await load(BitmapDirectory.fixedByteCount, at: position)
    var entry = try decodeFixedPart(at: start)
    let nameStart = position + UInt64(BitmapDirectory.fixedByteCount + entry.extraByteCount)
    let end = nameStart + UInt64(entry.nameByteCount)
    guard end <= directory.byteCount else { throw endsInside }
    if isWhole {
      entry.extra = try await bytes(entry.extraByteCount, at: position + UInt64(BitmapDirectory.fixedByteCount))
    }
    let nameCount = isWhole ? entry.nameByteCount : min(entry.nameByteCount, BitmapEntry.maximumNameByteCount)
    entry.nameBytes = try await bytes(nameCount, at: nameStart)
    position = (end + 7) / 8 * 8
    number += 1
    return entry
  }

  /// The entry at this place of the piece, but for its name.
  private func decodeFixedPart(at start: Int) throws(Qcow2Error) -> BitmapEntry {
    let bytes = piece.span.bytes
    let granularityBits: UInt8 = bytes.bigEndian(at: start + 17)
    guard granularityBits < 64 else { throw .damaged("bitmap \(number): granularity_bits is \(granularityBits)") }
    return BitmapEntry(
      nameBytes: [], granularityByteCount: 1 << UInt64(granularityBits), type: bytes.bigEndian(at: start + 16),
      flags: bytes.bigEndian(at: start + 12), tableOffset: bytes.bigEndian(at: start),
      tableEntryCount: Int(bytes.bigEndian(UInt32.self, at: start + 8)),
      nameByteCount: Int(bytes.bigEndian(UInt16.self, at: start + 18)),
      extraByteCount: Int(bytes.bigEndian(UInt32.self, at: start + 20)))
  }

  private var endsInside: Qcow2Error { .damaged("bitmap \(number): the directory ends inside it") }

  /// A copy of bytes of the directory.
  private mutating func bytes(_ count: Int, at start: UInt64) async throws(Qcow2Error) -> [UInt8] {
    if count == 0 { return [] }
    let place = try await load(count, at: start)
    return Array(piece[place..<place + count])
  }

  /// Brings bytes of the directory into the piece.
  /// - Returns: where in the piece they begin.
  private mutating func load(_ count: Int, at start: UInt64) async throws(Qcow2Error) -> Int {
    guard start <= directory.byteCount, UInt64(count) <= directory.byteCount - start else { throw endsInside }
    if start < pieceStart || start + UInt64(count) > pieceStart + UInt64(piece.count) {
      let length = Int(min(UInt64(max(count, Self.pieceByteCount)), directory.byteCount - start))
      piece = try await Qcow2Description.readBytes(length, at: directory.offset + start, file, pool)
      pieceStart = start
    }
    return Int(start - pieceStart)
  }
}
