import Bytes
import BlockCore
import BlockFilters
import Buffers

/// Opens the backing file that an image names.
package typealias BackingResolver =
  @Sendable (BackingReference) async throws -> any BlockDevice

/// Where an image's backing device comes from.
package enum BackingSource: Sendable {
  /// There is none: an image that names a backing file is refused.
  case none
  /// This one, whatever the image names. It stays the caller's if the image names none.
  case device(any BlockDevice)
  /// Whatever this opens for the name in the image; it decides whether the name may be followed.
  case resolve(BackingResolver)
  /// The image by itself, to be read only, whatever it names: what it doesn't hold reads as zeroes, and its status is of
  /// depth 0.
  case ignored
}

/// Opens the external data file of the name that an image states; empty if it states none.
package typealias DataFileResolver = @Sendable (String) async throws -> any BlockDevice

/// Where the device comes from that holds the guest's data of an image with an external data file: a raw device.
package enum DataFileSource: Sendable {
  /// There is none: an image with an external data file is refused.
  case none
  /// This one, whatever the image names. It stays the caller's if the image has no external data file.
  case device(any BlockDevice)
  /// Whatever this opens for the name in the image; it decides whether the name may be followed.
  case resolve(DataFileResolver)
}

/// Opening: header, refcount table and L1 table are read and checked; all other tables when they are needed.
extension Qcow2Image {
  package struct OpenOptions: Sendable {
    package var isReadOnly: Bool
    /// Place of this image in its chain: 0 for the one that was asked for, else its ``BackingReference/depth``.
    package var depth: Int
    /// What the L1 tables of the images above take: its ``BackingReference/tableByteCountAbove``.
    package var tableByteCountAbove = 0
    /// Memory for L2 tables and for refcount blocks, in bytes.
    package var mappingCacheByteCount: Int
    package var refcountCacheByteCount: Int
    /// What becomes of the image's bitmaps if it is opened to be written.
    package var bitmaps: BitmapPolicy = .refuse

    package init(
      isReadOnly: Bool = true, depth: Int = 0, mappingCacheByteCount: Int = 8 << 20,
      refcountCacheByteCount: Int = 2 << 20
    ) {
      self.isReadOnly = isReadOnly
      self.depth = depth
      self.mappingCacheByteCount = mappingCacheByteCount
      self.refcountCacheByteCount = refcountCacheByteCount
    }
  }

  /// Opens the image in `file`, which is then the image's own, as are the data file's and the backing file's devices:
  /// `close` closes them.
  ///
  /// - Parameters:
  ///   - work: expands compressed clusters.
  ///   - pool: lends memory for tables and for what isn't read or written straight.
  /// An image that is marked dirty is repaired when it is opened to be written.
  /// - Throws: a ``Qcow2Error`` that names what is unsupported or damaged. `file` is then the caller's still; what
  ///   was resolved is closed.
  package static func open(
    _ file: any BlockDevice, options: OpenOptions = OpenOptions(), backing source: BackingSource = .none,
    dataFile: DataFileSource = .none, work: any BackgroundWork, pool: BufferPool
  ) async throws(Qcow2Error) -> Qcow2Image {
    let file = AlignedAccess.over(file, pool: pool)
    let value = try await Qcow2Header.read(from: file, pool: pool)
    try value.checkFeatures()
    if !options.isReadOnly {
      if file.isReadOnly { throw .notWritable("the device under it is open read-only") }
      try value.checkWritable(options.bitmaps)
    }
    try value.checkLayout(fileByteCount: file.byteCount)
    let resolved = try await open(dataFileOf: value, dataFile, options, pool)
    do throws(Qcow2Error) {
      let host = ImageFile(file, clusterByteCount: value.clusterByteCount, pool: pool, dataFile: resolved)
      return try await open(host, value, options, source, work)
    } catch {
      if case .resolve = dataFile { try? await resolved?.device.close() }
      throw error
    }
  }

  private static func open(
    _ host: ImageFile, _ value: Qcow2Header, _ options: OpenOptions, _ source: BackingSource,
    _ work: any BackgroundWork
  ) async throws(Qcow2Error) -> Qcow2Image {
    let header: HeaderOnDisk
    do { header = try await HeaderOnDisk(value, file: host) } catch { throw .device(error) }
    guard options.tableByteCountAbove + value.l1ByteCount <= maximumChainTableByteCount else {
      throw .tablesTooLarge(maximumChainTableByteCount)
    }
    // Writing and checking need the refcounts; a backing file is only read.
    let isBackingFile = options.isReadOnly && options.depth > 0
    let blocks = try await host.table(
      at: value.refcountTableOffset,
      count: isBackingFile ? 0 : (value.refcountTableClusterCount << value.clusterBits) / 8)
    let l1 = try await host.table(at: value.l1Offset, count: value.l1EntryCount, L1Entry.init(raw:))
    if !options.isReadOnly {
      try await host.learnRegions(of: value, refcountTable: blocks, l1)
      if let conflict = host.regions.conflict { throw .damaged(conflict) }
    }
    let refcounts = Refcounts(
      file: host, header: header, table: blocks, memoryByteCount: options.refcountCacheByteCount)
    let data = host.dataFile ?? host
    let map = ClusterMap(
      file: host, data: data, header: header, refcounts: refcounts, l1: l1,
      memoryByteCount: options.mappingCacheByteCount)
    let bitmaps = options.isReadOnly || options.bitmaps == .refuse ? nil : try await BitmapsOnDisk.open(map)
    let isDirty = !options.isReadOnly && value.incompatible.contains(.dirty)
    let repairedCount = isDirty ? try await rebuildRefcounts(map, value.keptAutoclear(bitmaps)) : nil
    let backing = try await open(value, source, options)
    let image = Qcow2Image(
      file: host, data: data, header: header, refcounts: refcounts, map: map, backing: backing, work: work,
      isReadOnly: options.isReadOnly)
    image.bitmapsOnDisk = bitmaps
    image.repairedAtOpening = repairedCount
    return image
  }

  /// An image that wasn't closed cleanly by a writer with lazy refcounts: its tables are right, its counts aren't.
  /// We keep counts exact ourselves, so the mark stays away afterwards.
  /// - Returns: how many counts were put right.
  private static func rebuildRefcounts(
    _ map: ClusterMap, _ kept: Qcow2Header.Autoclear
  ) async throws(Qcow2Error) -> Int {
    do { try await map.file.learnSnapshotTables() } catch { throw .device(error) }
    if let conflict = map.file.regions.conflict { throw .damaged(conflict) }
    do throws(BlockError) {
      try await map.header.clearAutoclear(besides: kept)
      let report = try await RefcountRepair(map: map).run(.allCounts)
      if let finding = report.findings.first {
        throw BlockError(.corrupt("it was not closed cleanly and can't be repaired: \(finding.place)"), .open)
      }
      try await map.header.clearDirty()
      return report.repairedCount
    } catch {
      if case .corrupt(let text) = error.kind { throw .notWritable(text) }
      throw .device(error)
    }
  }

  private static func open(
    dataFileOf header: Qcow2Header, _ source: DataFileSource, _ options: OpenOptions, _ pool: BufferPool
  ) async throws(Qcow2Error) -> ImageFile? {
    guard let name = header.dataFileName else { return nil }
    let device: any BlockDevice
    switch source {
    case .none: throw .dataFileMissing(name)
    case .device(let given): device = given
    case .resolve(let open):
      do { device = try await open(name) } catch { throw .dataFileFailed(name, error) }
    }
    if !options.isReadOnly, device.isReadOnly {
      if case .resolve = source { try? await device.close() }
      throw .notWritable("its external data file \"\(name)\" is open read-only")
    }
    return ImageFile(
      device, clusterByteCount: header.clusterByteCount, pool: pool, exactByteCount: header.virtualByteCount)
  }

  private static func open(
    _ header: Qcow2Header, _ source: BackingSource, _ options: OpenOptions
  ) async throws(Qcow2Error) -> (any BlockDevice)? {
    if case .ignored = source {
      guard options.isReadOnly else { throw .notWritable("its backing file isn't open") }
      return nil
    }
    guard var reference = try header.backingReference(depth: options.depth + 1) else { return nil }
    reference.tableByteCountAbove = options.tableByteCountAbove + header.l1ByteCount
    guard reference.depth <= maximumBackingDepth else { throw .chainTooDeep(maximumBackingDepth) }
    switch source {
    case .none, .ignored: throw .backingMissing(reference)
    case .device(let device): return AlignedAccess.over(device)
    case .resolve(let open):
      do {
        return AlignedAccess.over(try await open(reference))
      } catch {
        throw .backingFailed(reference, error)
      }
    }
  }
}

extension Qcow2Header {
  /// Reads and decodes the header of the image in `file`, which takes any request; checks only what it says by itself.
  static func read(from file: any BlockDevice, pool: BufferPool) async throws(Qcow2Error) -> Qcow2Header {
    do {
      let prefixCount = Int(min(file.byteCount, UInt64(prefixByteCount)))
      var prefix = pool.take(prefixByteCount)
      var all = prefix.mutableBytes
      var part = all.part(0..<prefixCount)
      try await file.read(into: &part, at: 0)
      let cluster = try clusterByteCount(prefix: prefix.bytes.extracting(0..<prefixCount))
      let count = Int(min(file.byteCount, UInt64(cluster)))
      var buffer = pool.take(count)
      var bytes = buffer.mutableBytes
      var first = bytes.part(0..<count)
      try await file.read(into: &first, at: 0)
      return try Qcow2Header(decoding: buffer.bytes.extracting(0..<count))
    } catch let error as BlockError {
      throw .device(error)
    } catch let error as Qcow2Error {
      throw error
    } catch {
      throw .damaged("header: \(error)")
    }
  }
}

extension ImageFile {
  /// Tables are read in pieces, so that a long one is in memory once.
  private static let tablePieceByteCount = 1 << 20

  /// Reads a table of 64-bit entries. Its size was checked against the file's and its own limit.
  func table(at offset: UInt64, count: Int) async throws(Qcow2Error) -> [UInt64] {
    try await table(at: offset, count: count) { $0 }
  }

  /// The same, of entries that are made of their 64 bits.
  func table<Entry>(
    at offset: UInt64, count: Int, _ entry: (UInt64) -> Entry
  ) async throws(Qcow2Error) -> [Entry] {
    if count == 0 { return [] }
    var entries: [Entry] = []
    entries.reserveCapacity(count)
    var buffer = pool.take(min(count * 8, Self.tablePieceByteCount))
    while entries.count < count {
      let length = min((count - entries.count) * 8, Self.tablePieceByteCount)
      var all = buffer.mutableBytes
      var bytes = all.part(0..<length)
      do {
        try await read(into: &bytes, at: offset + UInt64(entries.count) * 8)
      } catch {
        throw .device(error)
      }
      let read = buffer.bytes.extracting(0..<length)
      for position in stride(from: 0, to: length, by: 8) { entries.append(entry(read.bigEndian(at: position))) }
    }
    return entries
  }
}
