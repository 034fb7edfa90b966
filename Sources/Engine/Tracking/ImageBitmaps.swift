import Bitmaps
import BlockCore
import BlockFilters
import Logging
import Qcow2

/// The bitmaps of a qcow2 image that is open to be written: every consistent one that is enabled is recorded, whoever made
/// it, until the image is closed.
///
/// B1. Before the first change the file says durably that they are in use. So a bitmap that missed a change, because the
///     server was killed, is inconsistent to everybody.
/// B2. They are stored when the image is closed, after all that they count is durable.
/// B3. Where they can't be stored they stay in use in the file, and the image is closed all the same.
final class ImageBitmaps: BlockFilter, ChangeRecorder, @unchecked Sendable {
  // Safe to hand over: confined to the loop of its image.

  private let image: Qcow2Image
  private let name: String
  private let logger: Logger
  private var recorded: [(entry: BitmapEntry, bitmap: DirtyBitmap)]
  private var isClosed = false
  var next: any BlockDevice { image }

  /// Bitmaps that are recorded of one image, and the bytes that they may take when all of their bits differ.
  static let maximumCount = 64
  static let maximumByteCount: UInt64 = 1 << 30

  /// Loads them, and marks them in use. Nil if there is none to record.
  /// - Parameter name: what a person knows the image by.
  nonisolated(nonsending)
    static func load(from image: Qcow2Image, name: String, logger: Logger) async throws -> ImageBitmaps?
  {
    let stored = try await image.bitmaps()
    guard stored.areTrusted else { return nil }
    let enabled = stored.entries.filter { $0.isAuto && !$0.isInUse }
    guard !enabled.isEmpty else { return nil }
    guard enabled.count <= maximumCount, enabled.allSatisfy(\.isUnderstood) else {
      throw Qcow2Error.notWritable(
        enabled.count > maximumCount
          ? "it carries \(enabled.count) enabled dirty bitmaps, and \(maximumCount) are recorded at most"
          : "it carries a dirty bitmap that isn't understood, which a write would make wrong")
    }
    let byteCount = enabled.reduce(UInt64(0)) { $0 + image.byteCount / $1.granularityByteCount / 8 }
    guard byteCount <= maximumByteCount else {
      throw Qcow2Error.notWritable(
        "its enabled dirty bitmaps take up to \(byteCount >> 20) MiB, and \(maximumByteCount >> 20) MiB are recorded at most"
      )
    }
    var recorded: [(entry: BitmapEntry, bitmap: DirtyBitmap)] = []
    for entry in enabled { recorded.append((entry, try await image.load(entry))) }
    try await image.markBitmapsInUse(Set(enabled.map(\.nameBytes)))
    return ImageBitmaps(image, name, recorded, logger)
  }

  private init(
    _ image: Qcow2Image, _ name: String, _ recorded: [(entry: BitmapEntry, bitmap: DirtyBitmap)], _ logger: Logger
  ) {
    self.image = image
    self.name = name
    self.recorded = recorded
    self.logger = logger
  }

  func record(_ range: ByteRange) {
    if recorded.contains(where: { range.end > $0.bitmap.byteCount }) { grow(to: range.end) }
    for index in recorded.indices { recorded[index].bitmap.set(range) }
  }

  private func grow(to byteCount: UInt64) {
    // A bitmap that has no place for so long a disk is lost: it stays in use in the file.
    recorded.removeAll { !DirtyBitmap.isPossible(granularity: $0.bitmap.granularity, byteCount: byteCount) }
    for index in recorded.indices where byteCount > recorded[index].bitmap.byteCount {
      recorded[index].bitmap = recorded[index].bitmap.resized(to: byteCount, isGrowthDirty: true)
    }
  }

  /// Changes were recorded above, where they came from.
  func tryBegin(_ kind: BlockChange, _ range: ByteRange) -> Bool { true }

  nonisolated(nonsending)
    func change(
      _ kind: BlockChange, _ range: ByteRange,
      _ perform: nonisolated(nonsending) (ByteRange) async throws(BlockError) -> Void
    ) async throws(BlockError)
  { try await perform(range) }

  nonisolated(nonsending)
    func close() async throws(BlockError)
  {
    guard !isClosed else { return try await image.close() }
    isClosed = true
    do throws(BlockError) {
      try await image.flush()
      try await image.changeBitmaps(
        recorded.map { entry, bitmap in
          // A disk that shrank has fewer granules than were recorded.
          let fitting =
            bitmap.byteCount == image.byteCount ? bitmap : bitmap.resized(to: image.byteCount, isGrowthDirty: true)
          return .store(
            BitmapToStore(
              name: entry.nameBytes, isAuto: true, bitmap: fitting, clusterByteCount: image.clusterByteCount))
        })
    } catch {
      logger.warning(
        "an image's dirty bitmaps couldn't be stored and are inconsistent: what counts from them compares by hash",
        metadata: ["image": "\(name)", "why": "\(error)"])
    }
    try await image.close()
  }
}

extension DirtyTracking: GraphFilter {}
