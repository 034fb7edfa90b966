import Bitmaps
import BlockCore
import BlockFilters
import EventLoops
import Logging
import Model
import Qcow2

/// The bitmaps of a qcow2 image that is open to be written: every consistent one that is enabled is recorded, whoever made
/// it, until the image is closed.
///
/// B1. Before the first change the file says durably that they are in use. So a bitmap that missed a change, because the
///     server was killed, is inconsistent to everybody.
/// B2. They are stored when the image is closed, after all that they count is durable.
/// B3. Where they can't be stored they stay in use in the file, and the image is closed all the same.
/// B4. A change of the set has a moment, at which no change of the disk is in flight, see ``BitmapChanges``. From then
///     until the file tells of it, the set of before goes on recording, and what changes is recorded for the one to
///     come: whichever it will be, it misses nothing.
/// B5. What doesn't record is in the file, complete. What records is in the file from its making on, in use, with the bits
///     of when it was loaded or last changed.
/// B6. What recording takes from the start is taken before anything is recorded, see ``TrackingMemory``.
/// B7. Of an image that can carry a tracker the changes are also recorded where a crash leaves them (``CrashRecord``): the
///     next opening finds there what the bitmaps missed since then.
final class ImageBitmaps: ClosingStep, ChangeRecorder, @unchecked Sendable {
  // Safe to hand over: confined to the loop of its image.

  let image: Qcow2Image
  /// What a person knows the image by.
  let name: String
  private let logger: Logger
  /// Nil where a crash leaves nothing of the changes.
  private(set) var crashRecord: CrashRecord?
  /// Nil where memory isn't bounded.
  private let share: TrackingShare?
  /// All bitmaps of the image but the witness of our own. Those that don't record have their bits here only for a change of them.
  private(set) var set: BitmapSet
  /// The set at the moment of a change of it, and one bitmap of what changed since.
  private var moment: (set: BitmapSet, since: BitmapSet, recordCount: UInt64)?
  private(set) var isBeingChanged = false
  /// What is taken out when the change has ended that is under way.
  private var unwanted: Set<[UInt8]> = []
  /// Tells this time of being open from every other.
  private let period = ULID()
  private var setCount: UInt64 = 0
  private var recordCount: UInt64 = 0
  private var isClosed = false
  var next: any BlockDevice { image }

  /// Loads them, and marks those in use that are recorded. Nil if the image can have none.
  nonisolated(nonsending)
    static func load(
      from image: Qcow2Image, of opened: OpenImage, _ records: CrashRecords?, on loop: EventLoop, _ logger: Logger
    ) async throws -> ImageBitmaps?
  {
    guard image.canCarryBitmaps else { return nil }
    var stored = try await image.bitmaps()
    let hasWitness = stored.areTrusted && stored.entry(named: CrashRecord.witnessName) != nil
    stored.entries.removeAll { $0.nameBytes == CrashRecord.witnessName }
    var set = BitmapSet(stored, byteCount: image.byteCount)
    let enabled = stored.areTrusted ? stored.entries.filter { $0.isAuto && !$0.isInUse } : []
    try check(enabled, set)
    let share = try records.map { try TrackingShare(of: set, from: $0.memory, image: opened.name) }
    for entry in enabled { set.load(try await image.load(entry), for: entry.nameBytes) }
    // From here on the witness may stay as it is while the image changes.
    if hasWitness || !enabled.isEmpty { try await image.markBitmapsInUse([], leaving: [CrashRecord.witnessName]) }
    var record: CrashRecord?
    if let granularity = set.finestGranularity {
      let inconsistent = stored.entries.filter(\.isInUse).map(\.nameBytes)
      record = await begin(image, opened, besides: inconsistent, granularity, records, on: loop, logger)
    }
    // Nothing that an earlier opening recorded counts any more.
    if record == nil, image.trackingMark != nil { try await image.removeTrackingMark() }
    if !enabled.isEmpty {
      try await image.markBitmapsInUse(Set(enabled.map(\.nameBytes)), leaving: [CrashRecord.witnessName])
      record?.noteChange()
    }
    return ImageBitmaps(image, opened.name, set, record, share, logger)
  }

  /// Refuses what can't be recorded.
  private static func check(_ enabled: [BitmapEntry], _ set: BitmapSet) throws(Qcow2Error) {
    let (most, mostBytes) = (BitmapSet.maximumRecordingCount, BitmapSet.maximumByteCount)
    guard enabled.count <= most, enabled.count == set.recordingCount else {
      throw Qcow2Error.notWritable(
        enabled.count > most
          ? "it carries \(enabled.count) enabled dirty bitmaps, and \(most) are recorded at most"
          : "it carries a dirty bitmap that isn't understood, which a write would make wrong")
    }
    guard set.maximumRecordedByteCount <= mostBytes else {
      throw Qcow2Error.notWritable(
        "its enabled dirty bitmaps take up to \(set.maximumRecordedByteCount >> 20) MiB, and \(mostBytes >> 20) MiB are recorded at most"
      )
    }
  }

  /// - Parameter inconsistent: bitmaps that were so already.
  /// - Returns: nil where a crash would leave nothing of the changes: as it is without a record.
  nonisolated(nonsending)
    private static func begin(
      _ image: Qcow2Image, _ opened: OpenImage, besides inconsistent: [[UInt8]], _ granularity: UInt64,
      _ records: CrashRecords?, on loop: EventLoop, _ logger: Logger
    ) async -> CrashRecord?
  {
    guard let records, let file = opened.files.first, opened.trackable != nil else { return nil }
    do {
      return try await CrashRecord.begin(
        of: image, besides: inconsistent, in: Sidecar.FileNumber(file.status), granularity: granularity,
        records.files(.random(in: .min ... .max), on: loop), logger)
    } catch {
      logger.warning(
        "the image's changes aren't recorded for after a crash",
        metadata: ["image": "\(opened.name)", "why": "\(error)"])
      return nil
    }
  }

  private init(
    _ image: Qcow2Image, _ name: String, _ set: BitmapSet, _ record: CrashRecord?, _ share: TrackingShare?,
    _ logger: Logger
  ) {
    self.image = image
    self.name = name
    self.set = set
    crashRecord = record
    self.share = share
    self.logger = logger
  }

  /// What changes go to, once these are told of them.
  var top: any BlockDevice { crashRecord.map { $0.filter(self) } ?? self }

  func record(_ range: ByteRange) {
    set.record(range)
    recordCount &+= 1
    moment?.since.record(range)
  }

  /// Changes whenever the bitmap may have changed.
  func generation(of bitmap: BitmapSet.Bitmap) -> FileGeneration { generation(of: bitmap, after: recordCount) }

  /// What it was at the moment of a change of the set.
  func generationAtMoment(of bitmap: BitmapSet.Bitmap) -> FileGeneration {
    generation(of: bitmap, after: moment?.recordCount ?? recordCount)
  }

  private func generation(of bitmap: BitmapSet.Bitmap, after recordCount: UInt64) -> FileGeneration {
    FileGeneration([
      FileGeneration(period: period, changeCount: setCount),
      FileGeneration(period: period, changeCount: bitmap.isRecording ? recordCount : 0),
    ])
  }

  // MARK: Changes of the set

  /// Reserves them for one change of the set; false while another is under way.
  func reserve() -> Bool {
    if isBeingChanged { return false }
    isBeingChanged = true
    return true
  }

  /// How long another change is waited for, and how often it is asked about.
  private static let patience = Duration.seconds(10)
  private static let pause = Duration.milliseconds(5)

  /// Reserves them as soon as another change has ended.
  /// - Throws: `bitmapBusy` if that takes too long.
  nonisolated(nonsending)
    func reservePatiently(on loop: EventLoop) async throws
  {
    let deadline = ContinuousClock.now + Self.patience
    while !reserve() {
      guard ContinuousClock.now < deadline else {
        throw DomainError(
          .bitmapBusy, "another change of the bitmaps of \(name) is under way",
          remedy: "try again when it has ended")
      }
      try await loop.sleep(for: Self.pause)
    }
  }

  /// Ends the change, whatever came of it.
  func free() {
    isBeingChanged = false
    moment = nil
    set.dropStoredBits()
    for name in unwanted { takeOut(name) }
    unwanted = []
    share?.shrink(to: set)
  }

  /// Takes out a bitmap of our own that only memory has, as soon as nobody changes the set.
  func takeOut(_ name: [UInt8]) {
    if isBeingChanged {
      unwanted.insert(name)
    } else if set[name]?.isPersistent == false {
      _ = set.replace([name], by: nil)
      share?.shrink(to: set)
    }
  }

  /// Takes the memory that recording another set needs. Throws `bitmapLimit`.
  func takeMemory(for set: BitmapSet) throws(DomainError) { try share?.grow(for: set) }

  /// Loads bits that only the file has.
  nonisolated(nonsending)
    func loadBits(of names: Set<[UInt8]>) async throws(BlockError)
  {
    for name in names.sorted(by: { $0.lexicographicallyPrecedes($1) }) {
      set.load(try await image.load(named: name), for: name)
    }
  }

  /// The moment of the change: no change of the disk is in flight.
  /// - Parameter granularity: the finest that the set will have.
  func begin(granularity: UInt64) {
    let bits = DirtyBitmap(byteCount: set.byteCount, granularity: granularity)
    let since = BitmapSet.Bitmap(
      name: [], granularity: granularity, isRecording: true, isPersistent: false, bits: bits)
    moment = (set, BitmapSet(byteCount: set.byteCount, [since]), recordCount)
  }

  /// The set at the moment.
  var setAtMoment: BitmapSet { moment?.set ?? set }

  /// Ends the change with success: the file tells of it.
  func install(_ new: BitmapSet) {
    let since = moment?.since
    set = new
    setCount += 1
    guard let since else { return }
    // Without bits for so long a disk, all of it has changed.
    guard let bits = since.bitmaps[0].bits else { return set.record(ByteRange(offset: 0, length: since.byteCount)) }
    set.record(bits)
  }

  // MARK: Trackers

  /// Begins to record a bitmap of our own, in memory.
  /// - Returns: false if there is no room for it.
  func add(_ bitmap: BitmapSet.Bitmap) -> Bool {
    var new = set
    guard new.replace([], by: bitmap) == nil, (try? takeMemory(for: new)) != nil else { return false }
    set = new
    return true
  }

  /// Puts a bitmap of our own in the place of others: the file tells of it, so that it is never too much.
  func install(_ bitmap: BitmapSet.Bitmap, insteadOf names: Set<[UInt8]>, areOrphansGone: Bool) {
    if areOrphansGone { set.dropOrphans() }
    _ = set.replace(names, by: bitmap)
    set.dropStoredBits()
  }

  /// From now on a crash leaves what changes. Bitmaps that recorded before stay as they would be without it.
  /// - Returns: what changes pass from now on; nil where nothing can be recorded, or that is so already.
  nonisolated(nonsending)
    func beginCrashRecord(
      _ opened: OpenImage, _ granularity: UInt64, _ records: CrashRecords?, on loop: EventLoop
    ) async -> WriteIntent?
  {
    guard crashRecord == nil, records != nil, opened.trackable != nil else { return nil }
    do throws(BlockError) {
      // The witness stays as it is while the image changes.
      try await image.markBitmapsInUse([], leaving: [CrashRecord.witnessName])
    } catch {
      return nil
    }
    let missing = set.bitmaps.filter { $0.flaw == .inconsistent || ($0.isRecording && $0.isPersistent) }
    let record = await Self.begin(image, opened, besides: missing.map(\.name), granularity, records, on: loop, logger)
    crashRecord = record
    return record?.filter(self)
  }

  /// Changes the image's file otherwise than its guest does. After a crash that is known for the server's own work.
  nonisolated(nonsending)
    func changeFile(_ change: nonisolated(nonsending) () async throws(BlockError) -> Void) async throws(BlockError)
  {
    crashRecord?.noteChange()
    defer { crashRecord?.noteChange() }
    try await change()
  }

  // MARK: The end

  nonisolated(nonsending)
    func close() async throws(BlockError)
  {
    guard !isClosed else { return try await image.close() }
    isClosed = true
    await crashRecord?.stop()
    let areStored = await store()
    do throws(BlockError) {
      try await changeFile { () async throws(BlockError) in try await image.close() }
    } catch {
      await crashRecord?.close(isKept: !areStored)
      throw error
    }
    await crashRecord?.close(isKept: !areStored)
  }

  /// - Returns: false if they stay in use in the file.
  nonisolated(nonsending)
    private func store() async -> Bool
  {
    let recorded = set.bitmaps.filter { $0.isRecording && $0.isPersistent }
    if recorded.isEmpty { return true }
    do throws(BlockError) {
      try await changeFile { () async throws(BlockError) in
        try await image.flush()
        try await image.changeBitmaps(recorded.compactMap { image.storing($0, isInUse: false) })
      }
      return true
    } catch {
      logger.warning(
        "an image's dirty bitmaps couldn't be stored: the next opening tries to recover them",
        metadata: ["image": "\(name)", "why": "\(error)"])
      return false
    }
  }
}

extension DirtyTracking: GraphFilter {}
