import BlockCore
import Buffers

/// What an image says of itself, as far as a reader can tell without its data. Also for images that can't be opened.
package struct Qcow2Description: Hashable, Sendable {
  package var header: Qcow2Header
  package var backing: BackingReference?
  /// The name of the file that holds the guest's data, where it isn't this one.
  package var externalDataFile: String?
  /// The feature bits that are set, each with the best name there is.
  package var features: [FeatureName]
  package var snapshots: [Snapshot]
  package var bitmaps: [BitmapEntry]

  /// False if the image was changed by a program that didn't keep its bitmaps up to date.
  package var bitmapsAreTrusted: Bool { header.autoclear.contains(.bitmaps) }

  /// Reads the header, the snapshot table and the bitmap directory of the image in `file`.
  nonisolated(nonsending)
    package static func read(
      from file: any BlockDevice, pool: BufferPool
    ) async throws(Qcow2Error) -> Qcow2Description
  {
    let header = try await Qcow2Header.read(from: file, pool: pool)
    try header.checkLayout(fileByteCount: file.byteCount)
    let dataFile = header.contents(ofExtension: HeaderExtension.Kind.externalDataFile)
    return Qcow2Description(
      header: header, backing: try header.backingReference(depth: 1),
      externalDataFile: dataFile.map { String(decoding: $0, as: UTF8.self) },
      features: header.setFeatures,
      snapshots: try await readSnapshots(header, file, pool),
      bitmaps: try await readBitmaps(header, file, pool))
  }

  nonisolated(nonsending)
    static func readSnapshots(
      _ header: Qcow2Header, _ file: any BlockDevice, _ pool: BufferPool
    ) async throws(Qcow2Error) -> [Snapshot]
  {
    try await readSnapshotTable(header, file, pool).snapshots
  }

  /// The snapshots, and how many bytes their table takes.
  nonisolated(nonsending)
    static func readSnapshotTable(
      _ header: Qcow2Header, _ file: any BlockDevice, _ pool: BufferPool
    ) async throws(Qcow2Error) -> (snapshots: [Snapshot], byteCount: UInt64)
  {
    var snapshots: [Snapshot] = []
    var offset = header.snapshotsOffset
    for number in 0..<header.snapshotCount {
      guard offset < file.byteCount, offset - header.snapshotsOffset <= UInt64(SnapshotTable.maximumByteCount) else {
        throw .damaged("snapshot \(number): the table is too long")
      }
      let count = Int(min(UInt64(SnapshotTable.usualEntryByteCount), file.byteCount - offset))
      var bytes = try await readBytes(count, at: offset, file, pool)
      if let needed = try SnapshotTable.entryByteCount(bytes.span.bytes, number: number), needed > count {
        bytes = try await readBytes(Int(min(UInt64(needed), file.byteCount - offset)), at: offset, file, pool)
      }
      let (snapshot, byteCount) = try SnapshotTable.decodeEntry(bytes.span.bytes, number: number)
      snapshots.append(snapshot)
      offset += UInt64(byteCount)
    }
    return (snapshots, offset - header.snapshotsOffset)
  }

  nonisolated(nonsending)
    static func readBitmaps(
      _ header: Qcow2Header, _ file: any BlockDevice, _ pool: BufferPool
    ) async throws(Qcow2Error) -> [BitmapEntry]
  {
    guard let directory = try header.bitmapDirectory() else { return [] }
    let (end, overflow) = directory.offset.addingReportingOverflow(directory.byteCount)
    guard !overflow, end <= file.byteCount else {
      throw .damaged("bitmaps extension: the directory at \(directory.offset) reaches past the end of the file")
    }
    let bytes = try await readBytes(Int(directory.byteCount), at: directory.offset, file, pool)
    return try directory.entries(bytes.span.bytes)
  }

  nonisolated(nonsending)
    private static func readBytes(
      _ count: Int, at offset: UInt64, _ file: any BlockDevice, _ pool: BufferPool
    ) async throws(Qcow2Error) -> [UInt8]
  {
    var bytes = [UInt8](repeating: 0, count: count)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    do {
      try await file.readUnaligned(into: &raw, at: offset, pool: pool)
    } catch {
      throw .device(error)
    }
    return bytes
  }
}

extension Qcow2Header {
  func bitmapDirectory() throws(Qcow2Error) -> BitmapDirectory? {
    guard let contents = contents(ofExtension: HeaderExtension.Kind.bitmaps) else { return nil }
    return try BitmapDirectory(decoding: contents)
  }

  /// The feature bits that are set.
  fileprivate var setFeatures: [FeatureName] {
    let fields: [(FeatureName.Field, UInt64)] = [
      (.incompatible, incompatible.rawValue), (.compatible, compatibleBits), (.autoclear, autoclear.rawValue),
    ]
    return fields.flatMap { field, bits in
      (0..<64).filter { bits >> UInt64($0) & 1 == 1 }.map { bit in
        FeatureName(field, bit, name(of: field, bit: bit) ?? "bit \(bit)")
      }
    }
  }
}
