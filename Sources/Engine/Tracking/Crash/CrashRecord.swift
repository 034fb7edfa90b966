import Bitmaps
import BlockCore
import BlockFilters
import EventLoops
import Glibc
import Logging
import Model
import Qcow2
import RawFile

// What lets bitmaps be trusted after the server was killed, or the power went, while their image was open to be written.
//
// R1. Before the first change the image durably has a mark that names the record (``TrackingMark``), and an enabled, empty
//     bitmap that nothing of ours records in (``witnessName``). A program that writes to the image clears the mark, or
//     sets a bit of the witness.
// R2. Every change is in the map and in the log before it is submitted (``WriteIntent``). The bits of before are in the
//     image, in use: those of when it was opened, or of the last change of its bitmaps.
// R3. A region leaves the log once its bits are in a sidecar, and a flush of the image that began later has succeeded. The
//     mark names the newest sidecar, so that an older one isn't used; while it is raised, the log names both.
// R4. Where the log can't be written the mark is removed before the guest's write goes on: nothing is recovered then.
// R5. At the image's close the bitmaps are stored in it, and the record is removed. Where they can't be stored it stays.

/// The record of one image's changes while it is open to be written.
final class CrashRecord: @unchecked Sendable {
  // Safe to hand over: confined to the loop of its image.

  static let witnessName = TrackerBitmapName.witness
  /// Of the witness. It is empty, so that a fine one takes no more than a coarse one.
  static let witnessGranularity: UInt64 = 65536
  /// How often regions that rest leave the log.
  static let settlingInterval = Duration.seconds(60)

  private let image: Qcow2Image
  private let files: RecordFiles
  private let storage: RawFile
  private let log: WriteIntentLog
  private let memory: MappedFile
  private let map: RecordingMap
  private let logger: Logger
  private var mark: TrackingMark
  /// Of the sidecar that the mark names.
  private var head: Sidecar.Head
  /// One change of the mark at a time.
  private let markTurn = RangeLock()
  private var isOver = false
  private var settling: Task<Void, Never>?

  private init(
    _ image: Qcow2Image, _ files: RecordFiles, _ storage: RawFile, _ log: WriteIntentLog, _ memory: MappedFile,
    _ map: RecordingMap, _ head: Sidecar.Head, _ mark: TrackingMark, _ logger: Logger
  ) {
    self.image = image
    self.files = files
    self.storage = storage
    self.log = log
    self.memory = memory
    self.map = map
    self.head = head
    self.mark = mark
    self.logger = logger
  }

  /// Begins a record. Durable when it returns.
  /// - Parameters:
  ///   - inconsistent: names of bitmaps that aren't to be recovered. Those that record are marked in use afterwards.
  ///   - file: the image's.
  ///   - granularity: the finest of the bitmaps'.
  nonisolated(nonsending)
    static func begin(
      of image: Qcow2Image, besides inconsistent: [[UInt8]], in file: Sidecar.FileNumber, granularity: UInt64,
      _ files: RecordFiles, _ logger: Logger
    ) async throws -> CrashRecord
  {
    let mark = TrackingMark(sidecar: files.id, session: .random(in: .min ... .max), sequence: 1)
    do {
      let storage = try await files.createLog()
      do {
        let layout = RecordingMap.Layout(diskByteCount: image.byteCount, granularity: granularity)
        let memory = try await files.createMap(layout)
        let map = RecordingMap(
          layout, record: files.id, session: mark.session, in: memory.memory,
          assign: { [unowned memory] in memory.reserve($0, RecordingMap.Layout.pageByteCount) })
        map.lastChange = SystemClock.seconds()
        let blank = Sidecar.FileNumber(device: 0, inode: 0)
        let head = Sidecar.Head(
          record: "\(files.id)", session: mark.session, sequence: 1, inconsistent: inconsistent, image: file,
          log: blank,
          sidecar: blank, diskByteCount: 0, granularity: 0, pages: [])
        let log = try await WriteIntentLog.create(
          on: storage, diskByteCount: image.byteCount,
          WriteIntentLog.Head(
            record: files.id, session: mark.session, sequence: 1, boot: SystemClock.boot()), now: SystemClock.seconds)
        try await files.write(Sidecar(head: head, changes: RecordedChanges(layout: layout)))
        try await placeWitness(in: image)
        map.lastChange = SystemClock.seconds()
        try await image.setTrackingMark(mark)
        let record = CrashRecord(image, files, storage, log, memory, map, head, mark, logger)
        record.noteChange()
        record.startSettling()
        return record
      } catch {
        try? await storage.close()
        throw error
      }
    } catch {
      await files.removeAll([1])
      throw error
    }
  }

  /// Has the image carry an empty one.
  nonisolated(nonsending)
    private static func placeWitness(in image: Qcow2Image) async throws(BlockError)
  {
    if try await hasCleanWitness(image) { return }
    let isThere = try await image.bitmaps().entry(named: witnessName) != nil
    let witness = DirtyBitmap(byteCount: image.byteCount, granularity: witnessGranularity)
    try await image.changeBitmaps(
      (isThere ? [.remove(name: witnessName)] : []) + [
        .store(
          BitmapToStore(name: witnessName, isAuto: true, bitmap: witness, clusterByteCount: image.clusterByteCount))
      ])
  }

  /// Whether nothing was written since the witness was placed, by what it has to tell.
  nonisolated(nonsending)
    static func hasCleanWitness(_ image: Qcow2Image) async throws(BlockError) -> Bool
  {
    guard let entry = try await image.bitmaps().entry(named: witnessName), entry.isUnderstood, entry.isAuto,
      !entry.isInUse
    else { return false }
    return try await image.load(entry).isEmpty
  }

  /// Notes that the server itself changes the image's file, before and after it does: a later change than the last noted
  /// one would be another program's.
  func noteChange() {
    if !isOver { map.lastChange = SystemClock.seconds() }
  }

  /// What changes of the image pass.
  func filter(_ next: any BlockDevice) -> WriteIntent {
    WriteIntent(next, map: map, log: log, now: SystemClock.seconds) { [self] (error) async throws(BlockError) in
      try await giveUp(error)
    }
  }

  /// Makes it durable that the record doesn't count any more.
  nonisolated(nonsending)
    private func giveUp(_ error: BlockError) async throws(BlockError)
  {
    let hold = await markTurn.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { markTurn.release(hold) }
    if isOver { return }
    try await image.removeTrackingMark()
    isOver = true
    logger.warning("changes are no longer recorded for after a crash", metadata: ["why": "\(error)"])
  }

  // MARK: Regions that leave the log

  private func startSettling() {
    settling = Task(executorPreference: files.loop) { [weak self, loop = files.loop] in
      while true {
        do throws(SystemError) { try await loop.sleep(for: Self.settlingInterval) } catch { return }
        guard let self else { return }
        await settle()
      }
    }
  }

  /// Has regions leave the log in which nothing has changed since the last time.
  nonisolated(nonsending)
    func settle() async
  {
    if isOver { return }
    do {
      var quiet = log.quiet()
      // Its time tells up to when the image may have been changed.
      guard !quiet.isEmpty else { return try await log.set(log.head) }
      let changes = map.recorded
      for range in changes.missing {
        for region in log.regions.indices(of: range) { quiet.remove(region) }
      }
      var next = head
      next.sequence += 1
      try await files.write(Sidecar(head: next, changes: changes))
      noteChange()
      try await image.flush()
      try await raise(to: next, removing: quiet)
    } catch {
      logger.warning(
        "what changed couldn't be stored beside the image, and is tried again", metadata: ["why": "\(error)"])
    }
    noteChange()
  }

  nonisolated(nonsending)
    private func raise(to next: Sidecar.Head, removing quiet: RegionSet) async throws
  {
    let hold = await markTurn.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { markTurn.release(hold) }
    if isOver { return }
    var logHead = log.head
    logHead.nextSequence = next.sequence
    try await log.set(logHead)
    noteChange()
    var raised = mark
    raised.sequence = next.sequence
    try await image.setTrackingMark(raised)
    let old = head.sequence
    (mark, head) = (raised, next)
    logHead.sequence = next.sequence
    try await log.remove(quiet, logHead)
    await files.removeSidecar(old)
  }

  // MARK: The end

  /// Ends the recording, before the image is closed.
  nonisolated(nonsending)
    func stop() async
  {
    settling?.cancel()
    await settling?.value
    settling = nil
  }

  /// Closes the record, after the image.
  /// - Parameter isKept: the image's bitmaps couldn't be stored, so that it is what tells of the changes.
  nonisolated(nonsending)
    func close(isKept: Bool) async
  {
    if isKept { noteChange() }
    if !isKept || isOver { await files.removeAll([head.sequence, head.sequence + 1]) }
    try? await storage.close()
  }
}

/// Times and boots, as the kernel tells them.
enum SystemClock {
  /// Since 1970, to some milliseconds: as the kernel stamps files.
  @Sendable static func seconds() -> Int64 {
    var now = timespec()
    clock_gettime(CLOCK_REALTIME_COARSE, &now)
    return Int64(now.tv_sec)
  }

  /// The same in nanoseconds.
  static func nanoseconds() -> Int64 {
    var now = timespec()
    clock_gettime(CLOCK_REALTIME_COARSE, &now)
    return Int64(now.tv_sec) * 1_000_000_000 + Int64(now.tv_nsec)
  }

  /// When the machine's running began.
  static func bootSeconds() -> Int64 {
    var (now, up) = (timespec(), timespec())
    clock_gettime(CLOCK_REALTIME, &now)
    clock_gettime(CLOCK_BOOTTIME, &up)
    return Int64(now.tv_sec - up.tv_sec)
  }

  /// Tells this time of the machine's running from others. Drawn where the kernel doesn't say: never the same then.
  static func boot() -> UInt128 {
    guard let file = fopen("/proc/sys/kernel/random/boot_id", "r") else { return .random(in: .min ... .max) }
    defer { fclose(file) }
    var text = [CChar](repeating: 0, count: 64)
    guard fgets(&text, Int32(text.count), file) != nil else { return .random(in: .min ... .max) }
    let digits = text.compactMap {
      UnicodeScalar(UInt8(bitPattern: $0)).properties.isASCIIHexDigit
        ? Character(UnicodeScalar(UInt8(bitPattern: $0))) : nil
    }
    return UInt128(String(digits), radix: 16) ?? .random(in: .min ... .max)
  }
}
