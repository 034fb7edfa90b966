import Descriptors
import EventLoops
import Glibc
import Locks
import Model

/// The right to write below one image's folder in a repository, while it is held.
///
/// Two things back it: an OFD lock on the lease's file, which ends with the process and counts on this host; and the
/// record in the file, whose beats tell other hosts that the holder lives. It is checked again before each step that
/// others could see (``confirm()``). All calls block.
final class Lease: Sendable {
  /// What trying to take one came to.
  enum Attempt {
    case taken(Lease)
    /// Another open file of this host has it: its holder lives.
    case heldHere
    /// Another server's, and whether it lives is to be seen from whether this changes.
    case heldElsewhere([UInt8], LeaseTiming)
  }

  private static let readAttempts = 3

  private struct State {
    var record: LeaseRecord
    var lastBeat: ContinuousClock.Instant
    var isLost = false
  }

  private let files: any FolderFiles
  private let path: String
  private let file: FileDescriptor
  private let timing: LeaseTiming
  private let state: Lock<State>

  private init(
    _ files: any FolderFiles, _ path: String, _ file: FileDescriptor, _ timing: LeaseTiming, _ record: LeaseRecord
  ) {
    self.files = files
    self.path = path
    self.file = file
    self.timing = timing
    state = Lock(State(record: record, lastBeat: .now))
  }

  var epoch: UInt64 { state.withLock { $0.record.epoch } }

  /// Takes the lease if it is free, or this server's own from an earlier life, or still `expired` byte for byte.
  static func attempt(
    _ image: ImageID, in files: any FolderFiles, writer: ULID, timing: LeaseTiming, expired: [UInt8]? = nil
  ) throws -> Attempt {
    _ = try files.ensureFolder(RepositoryPath.leases)
    let path = RepositoryPath.lease(image)
    let file = try openOrCreate(path, files)
    guard try lock(file) else {
      file.close()
      return .heldHere
    }
    do {
      let found = try files.contents(of: path, limit: LeaseRecord.byteCount)
      let record = try? LeaseRecord.decode(found)
      let isFree = found.isEmpty || record.map { !$0.isHeld || $0.writer == writer } ?? false
      guard isFree || found == expired else {
        file.close()
        let duration = record.map { Duration.milliseconds(max($0.leaseMilliseconds, 1)) } ?? timing.duration
        return .heldElsewhere(found, LeaseTiming(duration: min(duration, timing.duration * 10)))
      }
      let taken = LeaseRecord(
        epoch: (record?.epoch ?? 0) + 1, writer: writer, session: ULID(), beat: 0, isHeld: true,
        leaseMilliseconds: timing.milliseconds)
      try files.write(try taken.encoded(), to: file)
      try files.synchronize(file)
      return .taken(Lease(files, path, file, timing, taken))
    } catch {
      file.close()
      throw error
    }
  }

  /// Tells others that the holder lives.
  func beat() throws {
    var record = state.withLock { $0.record }
    record.beat += 1
    let beaten = ContinuousClock.now
    try checkFile()
    try files.write(try record.encoded(), to: file)
    try files.synchronize(file)
    state.withLock { [record] state in
      state.record.beat = max(state.record.beat, record.beat)
      state.lastBeat = beaten
    }
  }

  /// Throws unless the lease is held for certain: by the record in the file, and by the clock.
  func confirm() throws {
    try checkFile()
    let age = state.withLock { .now - $0.lastBeat }
    if age > timing.duration { throw loss("no beat could be written for \(age)") }
    // What is left of it must outlast the step that follows.
    if age > timing.duration / 2 { try beat() }
  }

  /// Gives it up; the next holder needn't wait. Nothing can be done about a failure: it will expire.
  func release() {
    if !state.withLock({ $0.isLost }) {
      var record = state.withLock { $0.record }
      record.isHeld = false
      if let bytes = try? record.encoded() { try? files.write(bytes, to: file) }
    }
    file.close()
  }

  private func checkFile() throws {
    let mine = state.withLock { $0.record }
    // Another job's beat may be half written as we read.
    for _ in 0..<Self.readAttempts {
      guard let found = try? LeaseRecord.decode(try files.contents(of: path, limit: LeaseRecord.byteCount)) else {
        continue
      }
      guard found.session == mine.session, found.epoch == mine.epoch, found.isHeld else {
        throw loss("another server took it over")
      }
      return
    }
    throw loss("its file can't be read")
  }

  private func loss(_ why: String) -> DomainError {
    state.withLock { $0.isLost = true }
    return DomainError(
      .repositoryLeased, "the lease \(path) was lost: \(why)",
      remedy: "find out which other server writes to the repository, then start the job again")
  }

  private static func openOrCreate(_ path: String, _ files: any FolderFiles) throws(SystemError) -> FileDescriptor {
    for _ in 0..<2 {
      do throws(SystemError) {
        return try files.openFile(path, isReadOnly: false)
      } catch {
        guard error.code == ENOENT else { throw error }
      }
      do throws(SystemError) {
        let file = try files.createFile(path)
        try files.synchronizeFolder(RepositoryPath.leases)
        return file
      } catch {
        // Another server made it meanwhile.
        guard error.code == EEXIST else { throw error }
      }
    }
    return try files.openFile(path, isReadOnly: false)
  }

  /// F_OFD_SETLK
  private static let setOpenFileLock: Int32 = 37

  /// Locks the whole file for this open file alone; false if another one has it.
  private static func lock(_ file: FileDescriptor) throws(SystemError) -> Bool {
    var wish = flock()
    wish.l_type = Int16(F_WRLCK)
    wish.l_whence = Int16(SEEK_SET)
    if fcntl(file.rawValue, setOpenFileLock, &wish) == 0 { return true }
    if errno == EAGAIN || errno == EACCES { return false }
    throw SystemError(errno)
  }
}
