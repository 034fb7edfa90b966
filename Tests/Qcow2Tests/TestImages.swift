import BlockCore
import BlockTesting
import Buffers

@testable import Qcow2

let pool = BufferPool()

/// Opens an image over a device, with work done inline and small caches, so that tables come and go.
nonisolated(nonsending)
  func openImage(
    _ file: any BlockDevice, isReadOnly: Bool = false, backing: BackingSource = .none, cacheByteCount: Int = 1 << 20
  ) async throws -> Qcow2Image
{
  let options = Qcow2Image.OpenOptions(
    isReadOnly: isReadOnly, mappingCacheByteCount: cacheByteCount, refcountCacheByteCount: cacheByteCount)
  return try await Qcow2Image.open(file, options: options, backing: backing, work: InlineWork(), pool: pool)
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
