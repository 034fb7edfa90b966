import BlockCore
import BlockFilters
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
  /// There are more snapshots or bitmaps than are described, or longer names.
  package var isTruncated: Bool

  /// False if the image was changed by a program that didn't keep its bitmaps up to date.
  package var bitmapsAreTrusted: Bool { header.autoclear.contains(.bitmaps) }

  /// Reads the header, the snapshot table and the bitmap directory of the image in `file`.
  package static func read(
    from file: any BlockDevice, pool: BufferPool
  ) async throws(Qcow2Error) -> Qcow2Description {
    let file = AlignedAccess.over(file, pool: pool)
    let header = try await Qcow2Header.read(from: file, pool: pool)
    try header.checkLayout(fileByteCount: file.byteCount)
    let dataFile = header.contents(ofExtension: HeaderExtension.Kind.externalDataFile)
    let snapshots = try await describeSnapshots(header, file, pool)
    let bitmaps = try await describeBitmaps(header, file, pool)
    return Qcow2Description(
      header: header, backing: try header.backingReference(depth: 1),
      externalDataFile: dataFile.map { String(decoding: $0, as: UTF8.self) },
      features: header.setFeatures, snapshots: snapshots.entries, bitmaps: bitmaps.entries,
      isTruncated: snapshots.isTruncated || bitmaps.isTruncated)
  }

  private static func describeSnapshots(
    _ header: Qcow2Header, _ file: any BlockDevice, _ pool: BufferPool
  ) async throws(Qcow2Error) -> DescribedEntries<Snapshot> {
    var described = DescribedEntries<Snapshot>()
    var reader = SnapshotTableReader(header, file, pool)
    while !described.isFull, let snapshot = try await reader.next() {
      described.add(
        snapshot, nameByteCount: snapshot.id.utf8.count + snapshot.name.utf8.count, isNameCut: snapshot.isNameCut)
    }
    return described
  }

  private static func describeBitmaps(
    _ header: Qcow2Header, _ file: any BlockDevice, _ pool: BufferPool
  ) async throws(Qcow2Error) -> DescribedEntries<BitmapEntry> {
    var described = DescribedEntries<BitmapEntry>()
    guard var reader = try BitmapDirectoryReader(header, file, pool) else { return described }
    while !described.isFull, let bitmap = try await reader.next() {
      described.add(bitmap, nameByteCount: bitmap.name.utf8.count, isNameCut: bitmap.isNameCut)
    }
    return described
  }

  static func readBytes(
    _ count: Int, at offset: UInt64, _ file: any BlockDevice, _ pool: BufferPool
  ) async throws(Qcow2Error) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    do {
      try await file.readPastEnd(into: &raw, at: offset)
    } catch {
      throw .device(error)
    }
    return bytes
  }
}

/// The first entries of a table whose length, and whose names, the image's maker chose.
struct DescribedEntries<Entry> {
  static var maximumCount: Int { 1000 }
  /// All names of a list together. In JSON, a byte of them may take six.
  static var maximumNamesByteCount: Int { 256 << 10 }

  private(set) var entries: [Entry] = []
  /// Something was left out: entries, or parts of names.
  private(set) var isTruncated = false
  /// An entry didn't fit: no further one is taken.
  private(set) var isFull = false
  private var namesByteCount = 0

  mutating func add(_ entry: Entry, nameByteCount: Int, isNameCut: Bool) {
    namesByteCount += nameByteCount
    isFull = entries.count == Self.maximumCount || namesByteCount > Self.maximumNamesByteCount
    if isFull || isNameCut { isTruncated = true }
    if !isFull { entries.append(entry) }
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
