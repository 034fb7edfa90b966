import Locks
import Model

/// Which files an image's contents lie in.
struct ImageFiles: Sendable {
  /// Its own, which change as it is written: its file, and its external data file.
  var own: Set<FileIdentity>
  /// Those of its backing files.
  var below: Set<FileIdentity> = []

  var all: Set<FileIdentity> { own.union(below) }
}

/// Looks at images' files for requests that don't wait for a silent storage.
///
/// L1. One look at an image is under way at a time, and all that ask share it: looks at a hung storage don't add up.
/// L2. The images of one folder are looked at one after the other, several folders at a time. A folder that takes
///     longer than its turn lets the next begin beside it.
/// L3. A look that hasn't ended by the deadline isn't waited for, and none begins after it.
final class ImageLooks: Sendable {
  private let engine: any BlockEngine
  private let limits: ServiceLimits
  let time: any TimeSource
  private let underWay = Lock<[ImageLocation: Task<ImageFiles?, Never>]>([:])

  init(engine: any BlockEngine, limits: ServiceLimits, time: any TimeSource) {
    self.time = time
    self.engine = engine
    self.limits = limits
  }

  /// The files of those images that could be looked at by `deadline`.
  func files(
    of images: [ImageLocation], until deadline: ContinuousClock.Instant
  ) async -> [ImageLocation: ImageFiles] {
    await answers(about: images, until: deadline).compactMapValues(\.self)
  }

  /// Which file or device each source is, of those whose storage told by `deadline`; nil if there is none.
  func identities(
    of sources: [ImageSource], until deadline: ContinuousClock.Instant
  ) async -> [ImageSource: FileIdentity?] {
    // Of a raw image nothing but its one file is looked at.
    let answers = await answers(about: sources.map { ImageLocation(source: $0, format: .raw) }, until: deadline)
    return Dictionary(uniqueKeysWithValues: answers.map { ($0.key.source, $0.value?.own.first) })
  }

  private func answers(
    about images: [ImageLocation], until deadline: ContinuousClock.Instant
  ) async -> [ImageLocation: ImageFiles?] {
    let found = Lock<[ImageLocation: ImageFiles?]>([:])
    let folders = Dictionary(grouping: images) { $0.source.place.split(separator: "/").dropLast() }
    let looks = BackgroundTasks(time)
    looks.begin(
      onEach: Array(folders.values), atMost: limits.concurrentLooks, turn: limits.overlayTurn
    ) { [self] images in
      for image in images where time.instant < deadline {
        let files = await files(of: image)
        found.withLock { $0[image] = .some(files) }
      }
    }
    await looks.wait(until: deadline)
    looks.cancel()
    return found.withLock { $0 }
  }

  private func files(of image: ImageLocation) async -> ImageFiles? {
    let task = underWay.withLock { looks in
      if let task = looks[image] { return task }
      let task = Task { [self] in
        let files = try? await look(at: image)
        underWay.withLock { $0[image] = nil }
        return files
      }
      looks[image] = task
      return task
    }
    return await task.value
  }

  /// A raw image has one file, which needn't be opened.
  private func look(at image: ImageLocation) async throws -> ImageFiles? {
    guard image.format == .qcow2 else {
      return try await engine.identities(of: [image.source]).first?.map { ImageFiles(own: [$0]) }
    }
    let inspection = try await engine.inspect(image)
    return ImageFiles(own: Set(inspection.files), below: Set(inspection.backingChain.flatMap(\.files)))
  }
}
