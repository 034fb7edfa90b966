import BlockCore
import Buffers
import Descriptors
import EventLoops
import Failures
import Logging
import Model
import Qcow2
import RawFile

/// Opens images with all the files that they name, on one loop.
///
/// Every file, backing and data files included, is opened beneath an allowed folder, or is a listed device. Formats are what was stated, never guessed.
/// Backing files are opened read-only, with the name and format that the image above states; see ``BackingName``.
struct ImageOpener: Sendable {
  let folders: AllowedFolders
  let devices: AllowedDevices
  let peers: NBDPeers
  let claims: FileClaims
  let attached: AttachedImages
  let work: any BackgroundWork
  let pool: BufferPool
  let loop: EventLoop
  let logger: Logger
  /// Where changes are recorded for after a crash; nil: nowhere.
  let records: CrashRecords?
  /// Trackers of images that have no place for them; nil: nowhere.
  let sidecars: SidecarFolder?
  /// Told of what latches a file that is open to be written.
  var latches: LatchLog?

  /// The files of a chain as they are opened; confined to the loop.
  private final class Chain: @unchecked Sendable {
    // Safe to hand over: confined to the opener's loop.
    let wantsDirect: Bool
    let use: ImageUse
    /// How long claims that pass are waited for.
    let deadline = ContinuousClock.now + FileClaims.timeout
    var files: [LayerFile] = []
    /// Whether the image's own files, those with its data, go past the page cache.
    var isDirect: Bool

    init(wantsDirect: Bool, use: ImageUse) {
      self.wantsDirect = wantsDirect
      self.use = use
      isDirect = wantsDirect
    }
  }

  /// Opens the image to be read and claims it as QEMU would, so that no other program writes to it meanwhile. An
  /// NBD export can't be claimed.
  /// - Parameter use: what it is opened for: others are refused, or wait, in these words.
  /// - Throws: `imageInUse` if the use needs an image at rest and this one is attached.
  nonisolated(nonsending)
    func open(_ image: ImageLocation, for use: ImageUse) async throws -> OpenImage
  {
    precondition(!use.need.isWriting, "an image that is written is opened as a graph")
    return try await open(image, isReadOnly: true, direct: false, for: use)
  }

  /// Opens the image to be written: the one way to do so. Claims are as in ``open(_:for:)``.
  /// - Parameters:
  ///   - tracking: how the changes are recorded that pass the graph.
  ///   - direct: goes past the page cache where the storage can; see ``OpenImage/isDirect``.
  nonisolated(nonsending)
    func openToWrite(
      _ image: ImageLocation, tracking: Tracking, direct: Bool = false, for use: ImageUse
    ) async throws -> ImageGraph
  {
    precondition(use.need.isWriting, "a use that writes says so")
    let opened = try await open(image, isReadOnly: false, direct: direct, for: use)
    logger.debug(
      "an image is open to be written",
      metadata: ["image": "\(opened.name)", "by": "\(use.user.words)", "changes": "\(tracking)"])
    return try await telling(about: opened.name) {
      try await attempt {
        let sidecars = try await SidecarTracking.load(of: opened, in: sidecars, on: loop, logger)
        var finding = RecoveryFinding.nothing
        var bitmaps: ImageBitmaps?
        if let qcow2 = opened.format.qcow2 {
          finding = try await CrashRecovery.run(on: qcow2, of: opened, records, on: loop, logger)
          if tracking == .recorded {
            bitmaps = try await ImageBitmaps.load(from: qcow2, of: opened, records, on: loop, logger)
          }
        }
        return ImageGraph(
          opened, at: image, tracking: tracking, recordedBy: bitmaps, sidecars, recovery: finding, for: use, on: loop)
      } orCleanUp: {
        try? await opened.device.close()
      }
    }
  }

  nonisolated(nonsending)
    private func open(
      _ image: ImageLocation, isReadOnly: Bool, direct: Bool, for use: ImageUse
    ) async throws -> OpenImage
  {
    try attached.admit(use, to: image)
    if case .nbd(let uri) = image.source { return try await openPeer(uri, image.format, isReadOnly: isReadOnly) }
    let chain = Chain(wantsDirect: direct, use: use)
    let path = image.source.place
    let file = try await openFile(image.source, isReadOnly: isReadOnly)
    let format = try await openLayer(file, path, image.format, depth: 0, isReadOnly: isReadOnly, chain)
    return OpenImage(
      format: format, name: path, files: chain.files, isDirect: chain.isDirect, isExclusive: image.isExclusive)
  }

  /// An image on another NBD server: whatever it names besides is refused.
  nonisolated(nonsending)
    private func openPeer(_ uri: String, _ format: DiskFormat, isReadOnly: Bool) async throws -> OpenImage
  {
    let export = try await peers.open(uri, isReadOnly: isReadOnly, for: .copy, on: loop)
    guard format == .qcow2 else {
      return OpenImage(format: .raw(export), name: uri, files: [], isDirect: false, isExclusive: false)
    }
    return try await telling(about: uri) {
      try await attempt {
        let resolver: BackingResolver = { throw BackingName.overNBD($0.name, "backing file", in: uri) }
        let dataFileResolver: DataFileResolver = { throw BackingName.overNBD($0, "data file", in: uri) }
        let image = try await Qcow2Image.open(
          export, options: Qcow2Image.OpenOptions(layer: 0, isReadOnly: isReadOnly), backing: .resolve(resolver),
          dataFile: .resolve(dataFileResolver), work: work, pool: pool)
        image.onLatch = latches?.report(of: uri)
        return OpenImage(format: .qcow2(image), name: uri, files: [], isDirect: false, isExclusive: false)
      } orCleanUp: {
        try? await export.close()
      }
    }
  }

  /// The file that the source names, checked to be one that may be opened. Not for NBD exports, which are no files.
  nonisolated(nonsending)
    func openFile(_ source: ImageSource, isReadOnly: Bool) async throws -> FileDescriptor
  {
    try await telling(about: source.place) {
      switch source {
      case .file(let path):
        let options = Folder.FileOptions(access: isReadOnly ? .readOnly : .readWrite)
        return try await loop.blocking(about: path, in: .folder(of: path)) { [folders] in
          try folders.openFile(path, options)
        }
      case .device(let path):
        return try await loop.blocking(about: path, in: .folder(path)) { [devices] in
          try devices.open(path, isReadOnly: isReadOnly)
        }
      case .nbd(let uri): throw DomainError(.sourceNotAFile, "\(uri) is an NBD export, not a file")
      }
    }
  }

  /// A file that an image names, for its backing or its data: beneath the allowed folders, or a listed device.
  nonisolated(nonsending)
    func openNamed(_ path: String, isReadOnly: Bool) async throws -> FileDescriptor
  {
    let refusal: DomainError
    do {
      return try await openFile(.file(path: path), isReadOnly: isReadOnly)
    } catch let error as DomainError where [.pathOutsideFolders, .sourceNotAFile].contains(error.code) {
      refusal = error
    }
    do {
      return try await openFile(.device(path: path), isReadOnly: isReadOnly)
    } catch let error as DomainError
      where [.pathOutsideFolders, .sourceNotAFile, .sourceNotFound].contains(error.code)
    {
      // It is no listed device either.
      throw refusal
    }
  }

  nonisolated(nonsending)
    private func openLayer(
      _ file: FileDescriptor, _ path: String, _ format: DiskFormat, depth: Int, isReadOnly: Bool, _ chain: Chain,
      tableByteCountAbove: Int = 0
    ) async throws -> OpenFormat
  {
    let (status, generation, changed) = try await loop.blocking(about: path, in: .folder(of: path)) {
      (try file.status(), try FileGeneration(of: file), try file.changeSeconds())
    }
    if chain.files.contains(where: { $0.status.isSameFile(as: status) }) {
      throw DomainError(
        .backingRefused, "\(chain.files[0].path) leads back to \(path): the files that it names form a loop",
        remedy: "give it another backing file with qemu-img rebase")
    }
    return try await telling(about: path) {
      var options = RawFile.Options(isReadOnly: isReadOnly, direct: chain.wantsDirect, allowsBlockDevice: true)
      options.allowsPartialLastBlock = format == .qcow2
      let claim = try await claims.claim(
        status, path, isReadOnly ? .reader : .writer, for: chain.use, until: chain.deadline, on: loop)
      let raw = try await RawFile.open(file, options, on: loop)
      raw.keptWhileOpen = claim
      raw.onLatch = latches?.report(of: path)
      let opened = try await attempt {
        try await loop.blocking(in: .folder(of: path)) { () throws(SystemError) in try ImageIdentity.Layer(of: file) }
      } orCleanUp: {
        try? await raw.close()
      }
      let layer = LayerFile(
        path: path, format: format, descriptor: file, status: status, generation: generation, changed: changed,
        opened: opened, closing: isReadOnly ? nil : sidecars.map { ClosingIdentity($0.configuration.timeResolution) })
      raw.onClosing = { [loop] in await layer.closing?.take(of: layer, on: loop) }
      chain.files.append(layer)
      if depth == 0, !raw.isDirect { chain.isDirect = false }
      guard format == .qcow2 else { return .raw(raw) }
      return try await attempt {
        var options = Qcow2Image.OpenOptions(
          layer: depth, isReadOnly: isReadOnly, tableByteCountAbove: tableByteCountAbove)
        options.bitmaps = .keep
        let resolver: BackingResolver = { [self] reference in
          let name = try BackingName(reference.name, format: reference.format, in: path)
          let below = name.joined(to: path)
          let file = try await openNamed(below, isReadOnly: true)
          return try await openLayer(
            file, below, name.format, depth: reference.depth, isReadOnly: true, chain,
            tableByteCountAbove: reference.tableByteCountAbove
          ).device
        }
        let dataFileResolver: DataFileResolver = { [self] name in
          let beside = try BackingName(dataFile: name, in: path).joined(to: path)
          let file = try await openNamed(beside, isReadOnly: isReadOnly)
          return try await openLayer(file, beside, .raw, depth: depth, isReadOnly: isReadOnly, chain).device
        }
        let image = try await Qcow2Image.open(
          raw, options: options, backing: .resolve(resolver), dataFile: .resolve(dataFileResolver), work: work,
          pool: pool)
        image.onLatch = latches?.report(of: path)
        return .qcow2(image)
      } orCleanUp: {
        try? await raw.close()
      }
    }
  }
}
