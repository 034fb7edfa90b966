import Bitmaps
import BlockCore
import Descriptors
import EventLoops
import Glibc
import Logging
import Model
import Qcow2

/// What came of the bitmaps of an image that a killed server left in use.
enum RecoveryFinding: Sendable {
  /// There is nothing to recover.
  case nothing
  /// So many bitmaps are consistent again.
  case recovered(Int)
  /// Why they stay inconsistent.
  case refused(FallbackReason, String)
}

/// Makes the bitmaps of an image consistent again that was open to be written when the server was killed or the power
/// went: with what was recorded, if nothing else can have changed the image since. It may be repeated, whenever it was cut
/// off.
struct CrashRecovery {
  /// How much later than the last change that was recorded the image's file may have been changed: by a request that was
  /// in flight.
  private static let tolerance: Int64 = 2

  let image: Qcow2Image
  let file: LayerFile
  let files: RecordFiles
  let mark: TrackingMark

  /// Comes before every change of the image, which is locked. An image is opened although its bitmaps can't be recovered:
  /// then nothing is recovered later either.
  nonisolated(nonsending)
    static func run(
      on image: Qcow2Image, of opened: OpenImage, _ records: CrashRecords?, on loop: EventLoop, _ logger: Logger
    ) async throws -> RecoveryFinding
  {
    guard let records, let file = opened.files.first, opened.trackable != nil else { return .nothing }
    var finding: RecoveryFinding
    do {
      finding = try await run(on: image, file) { records.files($0, on: loop) }
    } catch {
      try await image.removeTrackingMark()
      finding = .refused(.trackingLost, "what the bitmaps missed couldn't be stored in the image: \(error)")
    }
    switch finding {
    case .nothing: break
    case .recovered(let count):
      logger.notice(
        "the image was not closed; what its bitmaps had missed was recorded, and they are consistent again",
        metadata: ["image": "\(opened.name)", "bitmaps": "\(count)"])
    case .refused(_, let why):
      logger.warning(
        "the image was not closed, and its dirty bitmaps stay inconsistent: what counts from them compares by hash",
        metadata: ["image": "\(opened.name)", "why": "\(why)"])
    }
    return finding
  }

  nonisolated(nonsending)
    private static func run(
      on image: Qcow2Image, _ file: LayerFile, _ makeFiles: (UInt128) -> RecordFiles
    ) async throws -> RecoveryFinding
  {
    guard let last = image.lastTrackingMark else { return .nothing }
    let stored = try await image.bitmaps()
    let files = makeFiles(last.sidecar)
    guard stored.areTrusted, stored.entries.contains(where: { $0.isInUse && $0.nameBytes != CrashRecord.witnessName })
    else {
      // They were stored, and only the record's removal was cut off.
      await files.removeAll([last.sequence, last.sequence + 1])
      return .nothing
    }
    guard await files.areThere() else {
      return .refused(.uncleanStop, "this server has no record of what changed")
    }
    guard let mark = image.trackingMark else {
      await files.removeAll([last.sequence, last.sequence + 1])
      return .refused(.trackingLost, "another program wrote to the image after the server was killed")
    }
    return try await CrashRecovery(image: image, file: file, files: files, mark: mark).run()
  }

  nonisolated(nonsending)
    private func run() async throws -> RecoveryFinding
  {
    guard let left = try await files.open(mark.sequence) else {
      return .refused(.trackingLost, "this server's record of the image's changes is of another state, or damaged")
    }
    let finding: RecoveryFinding
    do {
      if let refusal = try await refusal(left) {
        finding = refusal
      } else {
        finding = .recovered(try await recover(left))
      }
    } catch {
      try? await left.storage.close()
      throw error
    }
    // What was recovered is in the image, durably; what was refused is never to be used.
    await files.removeAll([left.log.head.sequence, left.log.head.nextSequence])
    try? await left.storage.close()
    return finding
  }

  // MARK: Whether it may be used

  nonisolated(nonsending)
    private func refusal(_ left: RecordFiles.Left) async throws -> RecoveryFinding?
  {
    let (log, head) = (left.log.head, left.sidecar.head)
    guard log.record == mark.sidecar, log.session == mark.session, head.session == mark.session,
      head.sequence == mark.sequence, log.sequence == mark.sequence || log.nextSequence == mark.sequence,
      left.log.regions.byteCount == image.byteCount, head.diskByteCount == image.byteCount
    else { return .refused(.trackingLost, "the image and this server's record of its changes are of different states") }
    guard head.image == Sidecar.FileNumber(file.status) else {
      return .refused(.identityChanged, "the image is another file than the one whose changes were recorded")
    }
    guard try await CrashRecord.hasCleanWitness(image) else {
      return .refused(.trackingLost, "another program wrote to the image after the server was killed")
    }
    guard file.changed <= latestChange(left) else {
      return .refused(.trackingLost, "the image's file was changed after the last change that was recorded")
    }
    return nil
  }

  /// Up to when the killed server can have changed the image, in seconds since 1970.
  private func latestChange(_ left: RecordFiles.Left) -> Int64 {
    guard left.log.head.boot == SystemClock.boot() else { return SystemClock.bootSeconds() }
    if let map = map(left) { return map.lastChange + Self.tolerance }
    // The log is written at least so often while the image is changed.
    return left.log.seconds + CrashRecord.settlingInterval.components.seconds + Self.tolerance
  }

  /// The map, if it holds every change since the image was opened.
  private func map(_ left: RecordFiles.Left) -> RecordingMap? {
    guard left.log.head.boot == SystemClock.boot(), let memory = left.map,
      let map = RecordingMap(reading: memory.memory, byteCount: memory.byteCount), map.record == mark.sidecar,
      map.session == mark.session, map.layout == left.sidecar.changes.layout
    else { return nil }
    return map
  }

  // MARK: Using it

  nonisolated(nonsending)
    private func recover(_ left: RecordFiles.Left) async throws -> Int
  {
    let map = map(left)
    let changes = map?.recorded ?? left.sidecar.changes
    let logged = left.log.logged.indices.map(left.log.regions.range(of:))
    // A map is the whole truth, but for the parts that it had no page for.
    let coarse =
      map == nil
      ? logged : changes.missing.flatMap { part in logged.compactMap { $0.intersection(part) } }
    let inconsistent = Set(left.sidecar.head.inconsistent + [CrashRecord.witnessName])
    let entries = try await image.bitmaps().entries.filter {
      $0.isInUse && $0.isAuto && $0.isUnderstood && !inconsistent.contains($0.nameBytes)
    }
    // From here on the image is changed, which a second try has to know for its own.
    if let map {
      map.lastChange = SystemClock.seconds()
    } else {
      let log = WriteIntentLog.continuing(left.log, on: left.storage, now: SystemClock.seconds)
      var head = log.head
      head.boot = SystemClock.boot()
      try await log.set(head)
    }
    try await image.adoptBitmaps(Set(entries.map(\.nameBytes)))
    var stores: [BitmapChange] = []
    for entry in entries {
      var bitmap = try await image.load(entry)
      changes.form(&bitmap)
      for range in coarse { bitmap.set(range) }
      stores.append(
        .store(
          BitmapToStore(name: entry.nameBytes, isAuto: true, bitmap: bitmap, clusterByteCount: image.clusterByteCount)))
    }
    try await image.changeBitmaps(stores)
    map?.lastChange = SystemClock.seconds()
    return entries.count
  }
}
