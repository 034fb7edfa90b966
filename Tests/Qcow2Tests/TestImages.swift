import BlockCore
import BlockTesting
import Buffers

@testable import Qcow2

let pool = BufferPool()

/// Opens an image over a device, with work done inline and small caches, so that tables come and go.
nonisolated(nonsending)
  func openImage(
    _ file: any BlockDevice, isReadOnly: Bool = false, backing: BackingSource = .none,
    dataFile: DataFileSource = .none, cacheByteCount: Int = 1 << 20
  ) async throws -> Qcow2Image
{
  let options = Qcow2Image.OpenOptions(
    isReadOnly: isReadOnly, mappingCacheByteCount: cacheByteCount, refcountCacheByteCount: cacheByteCount)
  return try await Qcow2Image.open(
    file, options: options, backing: backing, dataFile: dataFile, work: InlineWork(), pool: pool)
}

/// A new image in memory, open read-write.
nonisolated(nonsending)
  func makeImage(
    _ options: Qcow2Image.CreateOptions, backing: BackingSource = .none,
    device: MemoryDevice.Options = MemoryDevice.Options(), cacheByteCount: Int = 1 << 20
  ) async throws -> (file: MemoryDevice, image: Qcow2Image)
{
  let file = MemoryDevice(byteCount: 0, blockByteCount: 512, options: device)
  try await Qcow2Image.create(on: file, options: options)
  return (file, try await openImage(file, backing: backing, cacheByteCount: cacheByteCount))
}

extension Qcow2Image {
  /// The part of a range that a discard makes zero: whole units, but no parts of compressed clusters.
  nonisolated(nonsending)
    func discardable(_ range: Range<UInt64>) async throws -> Range<UInt64>
  {
    let cluster = UInt64(clusterByteCount)
    let unit: UInt64 = 1 << map.unitBits
    var start = (range.lowerBound + unit - 1) / unit * unit
    var end = range.upperBound == byteCount ? range.upperBound : range.upperBound / unit * unit
    guard unit < cluster, start < end else { return start..<max(start, end) }
    let reachesEnd = end == byteCount
    let first = start / cluster * cluster
    if first < start || (first + cluster > end && !reachesEnd), try await isCompressed(start) {
      start = min(first + cluster, end)
    }
    let last = (end - 1) / cluster * cluster
    if start < end, last >= start, last + cluster > end, !reachesEnd, try await isCompressed(last) { end = last }
    return start..<max(start, end)
  }

  nonisolated(nonsending)
    private func isCompressed(_ offset: UInt64) async throws -> Bool
  {
    try await blockStatus(ByteRange(offset: offset, length: 1), limit: 1).first?.status == .compressed
  }
}

/// Opens an image file and its backing files from a folder into memory, as the program would with real devices.
nonisolated(nonsending)
  func openFile(_ path: String, isReadOnly: Bool = true, depth: Int = 0) async throws -> Qcow2Image
{
  let file = MemoryDevice(try SparseImage(contentsOf: path))
  return try await Qcow2Image.open(
    file, options: .init(isReadOnly: isReadOnly, depth: depth, mappingCacheByteCount: 64 << 10),
    backing: .resolve(backingResolver(besides: path)), work: InlineWork(), pool: pool)
}

func backingResolver(besides path: String) -> BackingResolver {
  let folder = path.prefix { _ in true }.split(separator: "/").dropLast().joined(separator: "/")
  return { reference in
    let path = "/\(folder)/\(reference.name)"
    guard reference.format == "qcow2" else { return MemoryDevice(try SparseImage(contentsOf: path)) }
    return try await openFile(path, depth: reference.depth)
  }
}
