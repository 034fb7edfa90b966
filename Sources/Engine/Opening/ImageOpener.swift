import BlockCore
import Buffers
import EventLoops
import Glibc
import Model
import Qcow2
import RawFile

/// Opens images with all the files that they name, on one loop.
///
/// Every file is opened beneath an allowed folder, or is a listed device. Formats are what was stated, never guessed.
/// Backing files are opened read-only, with the name and format that the image above states; see ``BackingName``.
struct ImageOpener: Sendable {
  let folders: AllowedFolders
  let devices: AllowedDevices
  let work: any BackgroundWork
  let pool: BufferPool
  let loop: EventLoop

  /// The files of a chain as they are opened; confined to the loop.
  private final class Chain: @unchecked Sendable {
    // Safe to hand over: confined to the opener's loop.
    var files: [LayerFile] = []
  }

  /// Opens the image and claims it as QEMU would, so that nobody writes to it meanwhile.
  nonisolated(nonsending)
    func open(_ image: ImageLocation, isReadOnly: Bool) async throws -> OpenImage
  {
    let chain = Chain()
    let path = image.source.path
    let file = try await openFile(image.source, isReadOnly: isReadOnly)
    let device = try await openLayer(file, path, image.format, depth: 0, isReadOnly: isReadOnly, chain)
    return OpenImage(device: device, name: path, files: chain.files)
  }

  /// The file that the source names, checked to be one that may be opened.
  nonisolated(nonsending)
    func openFile(_ source: ImageSource, isReadOnly: Bool) async throws -> FileDescriptor
  {
    try await telling(about: source.path) {
      switch source {
      case .file(let path):
        let place = try folders.resolve(path)
        let options = Folder.FileOptions(access: isReadOnly ? .readOnly : .readWrite)
        return try await loop.blocking { () throws(SystemError) in
          try place.folder.openFile(place.relative, options)
        }
      case .device(let path):
        return try await loop.blocking(about: path) { [devices] in try devices.open(path, isReadOnly: isReadOnly) }
      }
    }
  }

  /// The backing file that an image names: beneath the allowed folders, or a listed device.
  nonisolated(nonsending)
    func openBacking(_ path: String) async throws -> FileDescriptor
  {
    let refusal: DomainError
    do {
      return try await openFile(.file(path: path), isReadOnly: true)
    } catch let error as DomainError where error.code == .pathOutsideFolders {
      refusal = error
    }
    guard let file = try? await openFile(.device(path: path), isReadOnly: true) else { throw refusal }
    return file
  }

  nonisolated(nonsending)
    private func openLayer(
      _ file: FileDescriptor, _ path: String, _ format: DiskFormat, depth: Int, isReadOnly: Bool, _ chain: Chain
    ) async throws -> any BlockDevice
  {
    let layer = try await loop.blocking(about: path) {
      LayerFile(
        path: path, format: format, descriptor: file, status: try file.status(),
        generation: try FileGeneration(of: file))
    }
    if chain.files.contains(where: { $0.status.device == layer.status.device && $0.status.inode == layer.status.inode })
    {
      throw DomainError(
        .backingRefused, "\(chain.files[0].path) leads back to \(path): the files that it names form a loop",
        remedy: "give it another backing file with qemu-img rebase")
    }
    chain.files.append(layer)
    return try await telling(about: path) {
      let raw = try await RawFile.open(
        file, RawFile.Options(isReadOnly: isReadOnly, allowsBlockDevice: true), on: loop)
      guard format == .qcow2 else { return raw }
      return try await attempt {
        let options = Qcow2Image.OpenOptions(layer: depth, isReadOnly: isReadOnly)
        let resolver: BackingResolver = { [self] reference in
          let name = try BackingName(reference.name, format: reference.format, in: path)
          let below = name.joined(to: path)
          let file = try await openBacking(below)
          return try await openLayer(file, below, name.format, depth: reference.depth, isReadOnly: true, chain)
        }
        let dataFileResolver: DataFileResolver = { [self] name in
          let beside = try BackingName(dataFile: name, in: path).joined(to: path)
          let file = try await openFile(.file(path: beside), isReadOnly: isReadOnly)
          return try await openLayer(file, beside, .raw, depth: depth, isReadOnly: isReadOnly, chain)
        }
        return try await Qcow2Image.open(
          raw, options: options, backing: .resolve(resolver), dataFile: .resolve(dataFileResolver), work: work,
          pool: pool)
      } orCleanUp: {
        try? await raw.close()
      }
    }
  }
}

extension Qcow2Image.OpenOptions {
  /// Table caches of the layers below the first, in bytes: a chain may have many.
  private static let backingMappingByteCount = 1 << 20
  private static let backingRefcountByteCount = 256 << 10

  /// Options for one layer of a chain, 0 being the image itself.
  init(layer depth: Int, isReadOnly: Bool) {
    self.init(isReadOnly: isReadOnly, depth: depth)
    guard depth > 0 else { return }
    mappingCacheByteCount = Self.backingMappingByteCount
    refcountCacheByteCount = Self.backingRefcountByteCount
  }
}
