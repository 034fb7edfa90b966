import BlockCore
import Buffers
import Descriptors
import EventLoops
import Failures
import Foundation
import Model
import Qcow2
import RawFile

extension LocalEngine {
  package func suggestFormat(of source: ImageSource) async throws -> FormatSuggestion {
    try await onLoop(in: .folder(of: source.place)) { [self] loop in
      let raw = try await openUnclaimed(source, loop).device
      return try await telling(about: source.place) {
        try await closing([raw]) { try await Self.suggestion(for: raw, pool: pool) }
      }
    }
  }

  nonisolated(nonsending)
    private static func suggestion(for raw: any BlockDevice, pool: BufferPool) async throws -> FormatSuggestion
  {
    do throws(Qcow2Error) {
      let version = try await Qcow2Description.read(from: raw, pool: pool).header.version
      return FormatSuggestion(format: .qcow2, why: "it starts with a qcow2 header, version \(version)")
    } catch {
      switch error {
      case .notQcow2: return FormatSuggestion(format: .raw, why: "it doesn't start with a qcow2 header")
      case .device(let cause) where cause.isStorageFailure: throw cause
      default: return FormatSuggestion(format: .qcow2, why: "it starts with a qcow2 header, but \(error)")
      }
    }
  }

  /// A file that is open to be looked at, while others may write to it.
  struct UnclaimedFile: Sendable {
    let device: any BlockDevice
    /// Nil for an NBD export.
    var status: FileStatus?
    /// What it was when it was opened.
    var identity: ImageIdentity.Layer?
  }

  /// Without a claim: looking is allowed while a guest writes.
  nonisolated(nonsending)
    func openUnclaimed(
      _ source: ImageSource, _ loop: EventLoop
    ) async throws -> UnclaimedFile
  {
    if case .nbd(let uri) = source {
      return UnclaimedFile(device: try await peers.open(uri, isReadOnly: true, for: .look, on: loop))
    }
    let file = try await opener(on: loop).openFile(source, isReadOnly: true)
    return try await openUnclaimed(file, source.place, loop)
  }

  nonisolated(nonsending)
    private func openUnclaimed(
      _ file: FileDescriptor, _ path: String, _ loop: EventLoop
    ) async throws -> UnclaimedFile
  {
    try await telling(about: path) {
      let (status, identity) = try await loop.blocking(in: .folder(of: path)) { () throws(SystemError) in
        (try file.status(), try ImageIdentity.Layer(of: file))
      }
      let raw = try await RawFile.open(
        file, RawFile.Options(isReadOnly: true, locks: false, allowsBlockDevice: true), on: loop)
      return UnclaimedFile(device: raw, status: status, identity: identity)
    }
  }

  // MARK: Inspection

  /// What one file of a chain tells of itself.
  private struct Layer {
    /// Nil for an NBD export.
    var file: FileStatus?
    /// Of the external data file.
    var dataFile: FileStatus?
    /// What its files were.
    var states: [ImageIdentity.Layer] = []
    var virtualSize: UInt64
    var description: Qcow2Description?
    var locks: [ImageInspection.Lock]

    var identities: [FileIdentity] { [file, dataFile].compactMap { $0.map { FileIdentity($0) } } }
  }

  package func inspect(_ image: ImageLocation) async throws -> ImageInspection {
    try await onLoop(in: .folder(of: image.source.place)) { [self] loop in
      let opener = opener(on: loop)
      let path = image.source.place
      let first = try await look(at: try await openUnclaimed(image.source, loop), path, image.format, loop)
      var seen = [first.file].compactMap { $0 }
      var (chain, states) = ([ImageInspection.Layer](), first.states)
      var last = (path: path, layer: first)
      while let reference = last.layer.description?.backing {
        guard chain.count < Qcow2Image.maximumBackingDepth else {
          throw DomainError(
            .backingRefused, "\(path) stands on more than \(Qcow2Image.maximumBackingDepth) backing files",
            remedy: "merge some with qemu-img commit")
        }
        guard last.layer.file != nil else { throw BackingName.overNBD(reference.name, "backing file", in: path) }
        let name = try BackingName(reference.name, format: reference.format, in: last.path)
        let below = name.joined(to: last.path)
        let file = try await openUnclaimed(try await opener.openNamed(below, isReadOnly: true), below, loop)
        let layer = try await look(at: file, below, name.format, loop)
        if let file = layer.file {
          guard !seen.contains(where: { $0.isSameFile(as: file) }) else {
            throw DomainError(.backingRefused, "\(path) leads back to \(below): its backing files form a loop")
          }
          seen.append(file)
        }
        chain.append(
          ImageInspection.Layer(
            path: below, format: name.format, virtualSize: layer.virtualSize, files: layer.identities))
        states += layer.states
        last = (below, layer)
      }
      var inspection = Self.inspection(of: first, format: image.format, chain)
      inspection.sidecars = await sidecars(of: image, states, loop)
      return inspection
    }
  }

  nonisolated(nonsending)
    private func look(
      at opened: UnclaimedFile, _ path: String, _ format: DiskFormat,
      _ loop: EventLoop
    ) async throws -> Layer
  {
    try await telling(about: path) {
      try await closing([opened.device]) {
        let locks = try await (opened.device as? RawFile)?.locksElsewhere()
        let description = format == .qcow2 ? try await Qcow2Description.read(from: opened.device, pool: pool) : nil
        var dataFile: (status: FileStatus, identity: ImageIdentity.Layer)?
        if let description { dataFile = try await check(description, path, isFile: opened.status != nil, loop) }
        return Layer(
          file: opened.status, dataFile: dataFile?.status,
          states: [opened.identity, dataFile?.identity].compactMap { $0 },
          virtualSize: description?.header.virtualByteCount ?? opened.device.byteCount,
          description: description, locks: locks.map(Self.locks) ?? [])
      }
    }
  }

  /// Refuses here already what can't be backed up, so that it isn't found out only then. Returns what the external data
  /// file is.
  nonisolated(nonsending)
    private func check(
      _ description: Qcow2Description, _ path: String, isFile: Bool, _ loop: EventLoop
    ) async throws -> (status: FileStatus, identity: ImageIdentity.Layer)?
  {
    switch description.header.encryption {
    case .none: break
    case .aes: throw Self.encrypted(path, "AES")
    case .luks: throw Self.encrypted(path, "LUKS")
    }
    guard let name = description.externalDataFile else { return nil }
    guard isFile else { throw BackingName.overNBD(name, "data file", in: path) }
    let beside = try BackingName(dataFile: name, in: path).joined(to: path)
    let file = try await opener(on: loop).openNamed(beside, isReadOnly: true)
    return try await telling(about: beside) {
      try await loop.blocking(in: .folder(of: beside)) { () throws(SystemError) in
        defer { file.close() }
        return (try file.status(), try ImageIdentity.Layer(of: file))
      }
    }
  }

  private static func encrypted(_ path: String, _ method: String) -> DomainError {
    DomainError(
      .formatUnsupported, "\(path) is a qcow2 image encrypted with \(method), which can't be read",
      remedy: "convert it to one without encryption with qemu-img convert")
  }

  private static func locks(_ lock: ImageLock) -> [ImageInspection.Lock] {
    lock.held.union(lock.unshared).names.map { name in
      ImageInspection.Lock(
        permission: name, held: lock.held.names.contains(name), unshared: lock.unshared.names.contains(name))
    }
  }

  private static func inspection(
    of layer: Layer, format: DiskFormat, _ chain: [ImageInspection.Layer]
  ) -> ImageInspection {
    var inspection = ImageInspection(
      format: format, virtualSize: layer.virtualSize,
      storedSize: layer.file.flatMap { $0.kind == .blockDevice ? nil : $0.allocatedByteCount } ?? layer.virtualSize,
      files: layer.identities, backingChain: chain, locks: layer.locks)
    guard let description = layer.description else { return inspection }
    let header = description.header
    inspection.version = Int(header.version)
    inspection.clusterSize = Int(header.clusterByteCount)
    inspection.refcountBits = header.refcountBits
    inspection.compressionType = header.compressionType == .zstd ? "zstd" : "zlib"
    inspection.truncated = description.isTruncated
    inspection.features = description.features.map(\.name)
    inspection.snapshots = description.snapshots.map { snapshot in
      let seconds = Double(snapshot.dateSeconds) + Double(snapshot.dateNanoseconds) / 1e9
      return ImageInspection.Snapshot(
        id: snapshot.id, name: snapshot.name, createdAt: Date(timeIntervalSince1970: seconds),
        virtualSize: snapshot.virtualByteCount ?? header.virtualByteCount, vmStateSize: snapshot.vmStateByteCount)
    }
    inspection.bitmaps = description.bitmaps.map { bitmap in
      ImageInspection.Bitmap(
        name: bitmap.name, granularity: bitmap.granularityByteCount, enabled: bitmap.isAuto,
        inconsistent: bitmap.isInUse || !description.bitmapsAreTrusted)
    }
    return inspection
  }

  // MARK: Extents

  /// Extents that one call to a device is asked for, and calls that one page makes at most.
  private static let extentsPerCall = 512
  private static let callsPerPage = 64
  /// How often a page is begun anew because the image was attached or detached meanwhile.
  private static let extentAttempts = 8

  package func extents(
    of image: ImageLocation, offset: UInt64, length: UInt64?, limit: Int
  ) async throws -> ExtentPage {
    for _ in 0..<Self.extentAttempts {
      let changeCount = attachedImages.changeCount
      if let graph = attachedImages.graph(at: image.source) {
        do {
          return try await onLoop(graph.loop) { _ in
            try await Self.page(
              of: graph.slot, byteCount: graph.slot.byteCount, graph.generation.token,
              StoredExtentQuery(offset: offset, length: length, limit: limit))
          }
        } catch let error as BlockError where error.kind == .closed {
          continue  // It was detached meanwhile.
        } catch {
          throw DomainError(any: error, of: graph.name)
        }
      }
      do {
        return try await extents(ofFile: image, offset: offset, length: length, limit: limit)
      } catch let error as DomainError where error.code == .imageLocked {
        // What held it may have been its own being attached, begun or ended meanwhile.
        guard attachedImages.changeCount != changeCount else { throw error }
      }
    }
    throw DomainError(
      .imageInUse, "\(image.source.place) is attached and detached all the time", remedy: "ask again when it rests")
  }

  private func extents(
    ofFile image: ImageLocation, offset: UInt64, length: UInt64?, limit: Int
  ) async throws -> ExtentPage {
    try await onLoop(in: .folder(of: image.source.place)) { [self] loop in
      let use = ImageUse(.request("a request for its extents"), needs: .read, isPassing: true)
      let opened = try await opener(on: loop).open(image, for: use)
      return try await closing([opened.device]) {
        try await telling(about: opened.name) {
          try await Self.page(
            of: opened.device, byteCount: opened.device.byteCount, opened.generation.token,
            StoredExtentQuery(offset: offset, length: length, limit: limit))
        }
      }
    }
  }

  /// - Parameters:
  ///   - byteCount: bytes of the guest's disk.
  ///   - generation: what the device's was before it was asked for its extents.
  nonisolated(nonsending)
    static func page(
      of device: any BlockDevice, byteCount: UInt64, _ generation: String, _ query: StoredExtentQuery
    ) async throws -> ExtentPage
  {
    let (offset, length, limit) = (query.offset, query.length, query.limit)
    guard offset <= byteCount, limit > 0 else {
      throw DomainError(.invalidParameter, "the offset \(offset) is past the disk's \(byteCount) bytes")
    }
    let end = length.map { $0 < byteCount - offset ? offset + $0 : byteCount } ?? byteCount
    var items: [ExtentPage.Item] = []
    var position = offset
    for _ in 0..<callsPerPage where position < end {
      let whole = ByteRange(position..<end).aligned(to: UInt64(device.limits.requestAlignment))
      for extent in try await device.blockStatus(whole, limit: extentsPerCall) {
        guard position < end, extent.range.end > position else { continue }
        let item = ExtentPage.Item(
          offset: position, length: min(extent.range.end, end) - position, data: !extent.status.contains(.hole),
          zero: extent.readsAsZero)
        if let last = items.last, last.data == item.data, last.zero == item.zero {
          items[items.count - 1].length += item.length
        } else if items.count < limit {
          items.append(item)
        } else {
          return ExtentPage(items: items, nextOffset: position, generation: generation)
        }
        position = min(extent.range.end, end)
      }
    }
    return ExtentPage(
      items: items, nextOffset: position < end ? position : nil, generation: generation)
  }
}
