import Bitmaps
import BlockCore
import BlockFilters
import EventLoops
import Failures
import Logging
import Model

/// The sidecars of an image that is open to be written: its changes are recorded in them, and when it is closed they are
/// stored with what its files are then. See S3 and S4.
final class SidecarTracking: ClosingStep, ChangeRecorder, @unchecked Sendable {
  // Safe to hand over: confined to the loop of its image.

  /// What stands below, down to the files.
  private(set) var next: any BlockDevice
  private let image: OpenImage
  private let folder: SidecarFolder
  private let loop: EventLoop
  private let logger: Logger
  /// What the image's files were when it was opened.
  private let opened: ImageIdentity
  private var set: BitmapSet
  /// Trackers whose bits are lost, and why.
  private let lacks: [(name: TrackerBitmapName, lack: TrackerSidecar.Lack)]
  private var isClosed = false

  /// Loads them, and has them say that the image is open. Nil if there are none.
  /// - Throws: where an older state of the image could pass for the one that it will have: of a file its times tell.
  nonisolated(nonsending)
    static func load(
      of image: OpenImage, in folder: SidecarFolder?, on loop: EventLoop, _ logger: Logger
    ) async throws -> SidecarTracking?
  {
    guard let folder, !image.files.isEmpty else { return nil }
    let name = image.name
    do {
      let found = try await loop.blocking(about: name, in: folder.lane) { try folder.all(of: name) }
      if found.isEmpty { return nil }
      let judged = found.map { ($0, image.bits(of: $0, at: image.opened)) }
      try await loop.blocking(about: name, in: folder.lane) { try folder.beginWriting(name) }
      return SidecarTracking(image, judged, in: folder, on: loop, logger)
    } catch {
      logger.warning(
        "what changes in the image can't be recorded: its next backup compares by hash",
        metadata: ["image": "\(name)", "why": "\(error)"])
      do {
        try await loop.blocking(about: name, in: folder.lane) { try folder.remove(nil, of: name) }
      } catch {
        guard image.files.allSatisfy({ $0.status.kind == .regular }) else { throw error }
      }
      return nil
    }
  }

  private init(
    _ image: OpenImage,
    _ judged: [(SidecarFolder.Found, Result<StoredTracker, TrackerSidecar.Lack>)], in folder: SidecarFolder,
    on loop: EventLoop, _ logger: Logger
  ) {
    self.image = image
    next = image.device
    self.folder = folder
    self.loop = loop
    self.logger = logger
    opened = image.opened
    var bitmaps: [BitmapSet.Bitmap] = []
    var lacks: [(TrackerBitmapName, TrackerSidecar.Lack)] = []
    for (found, result) in judged {
      let name =
        found.name ?? TrackerBitmapName(tracker: found.tracker, checkpoint: TrackerBitmapName.noCheckpoint)
      switch result {
      case .success(let stored):
        bitmaps.append(
          BitmapSet.Bitmap(
            name: name.bytes, granularity: stored.bitmap.granularity, isRecording: true, bits: stored.bitmap))
      case .failure(let lack): lacks.append((name, lack))
      }
    }
    set = BitmapSet(byteCount: image.device.byteCount, bitmaps)
    self.lacks = lacks
    for file in image.files { file.closing?.isWanted = true }
  }

  /// What changes of the image pass, before they go on to `below`.
  func over(_ below: any BlockDevice, isRecording: Bool) -> any BlockDevice {
    next = below
    return isRecording ? DirtyTracking(self, recorder: self) : self
  }

  func record(_ range: ByteRange) { set.record(range) }

  // MARK: The end

  nonisolated(nonsending)
    func close() async throws(BlockError)
  {
    guard !isClosed else { return try await next.close() }
    isClosed = true
    // Files that aren't written are only looked at while they are open.
    let last = try? await image.identity(on: loop)
    try await next.close()
    do {
      try await store(identity(last))
    } catch {
      logger.warning(
        "what changed in the image couldn't be recorded: its next backup compares by hash",
        metadata: ["image": "\(image.name)", "why": "\(error)"])
    }
  }

  /// What the image's files are now: those that were written, as they were closed, and the others, if they are still
  /// what they were.
  private func identity(_ last: ImageIdentity?) throws -> ImageIdentity {
    var layers: [ImageIdentity.Layer] = []
    for (index, file) in image.files.enumerated() {
      if let closing = file.closing {
        guard let layer = closing.layer else {
          throw DomainError(.trackingLost, "\(file.path) goes on being changed")
        }
        layers.append(layer)
      } else {
        guard let last, last.layers[index] == opened.layers[index] else {
          throw DomainError(.trackingLost, "\(file.path) was changed beneath the image")
        }
        layers.append(last.layers[index])
      }
    }
    return ImageIdentity(layers: layers)
  }

  nonisolated(nonsending)
    private func store(_ identity: ImageIdentity) async throws
  {
    var sidecars = lacks.map { TrackerSidecar($0.name, of: image.name, .failure($0.lack), identity: nil) }
    for bitmap in set.bitmaps {
      guard let name = TrackerBitmapName(bitmap.name) else { continue }
      let lost = TrackerSidecar.Lack(reason: .sizeChanged, text: "the image has become too long for its bitmap")
      sidecars.append(
        TrackerSidecar(
          name, of: image.name, bitmap.bits.map { .success($0) } ?? .failure(lost), identity: identity))
    }
    for sidecar in sidecars {
      try await loop.blocking(about: image.name, in: folder.lane) { [folder] in try folder.put(sidecar) }
    }
  }
}

/// What a file was when it was closed after it was written to: taken after its last write, before its lock is given up.
final class ClosingIdentity: @unchecked Sendable {
  // Safe to hand over: confined to the loop of its image.

  var isWanted = false
  private(set) var layer: ImageIdentity.Layer?
  private let resolution: Duration

  init(_ resolution: Duration) { self.resolution = resolution }

  nonisolated(nonsending)
    func take(of file: LayerFile, on loop: EventLoop) async
  {
    if isWanted { layer = try? await file.settledIdentity(resolution, on: loop) }
  }
}
