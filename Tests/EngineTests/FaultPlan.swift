import BlockCore
import Buffers
import Descriptors
import Engine
import EventLoops
import Foundation
import Glibc
import Locks
import Repositories

/// When the storage of a repository fails, over all files and devices that are opened through ``FaultyFiles``.
final class FaultPlan: Sendable {
  enum Mode: Sendable {
    case never
    /// Call n, counted over all calls from 1, fails with this errno; `isDone` tells whether it takes effect all the same.
    case fail(call: Int, code: Int32, isDone: Bool)
    /// From changing call n on nothing happens any more: the process was killed, or the power went.
    case cut(change: Int)
  }

  private struct State {
    var mode: Mode
    var calls = 0
    var changes = 0
    var wasHit = false
    /// Undoes what isn't durable yet, by the folder whose fsync makes it so (or the file's).
    var pending: [(owner: String, undo: @Sendable () -> Void)] = []
  }

  /// What the storage says once it is cut.
  static let cutCode = EIO

  private let state: Lock<State>
  /// Where removed files wait until their removal is durable.
  private let limbo = NSTemporaryDirectory() + "cobweb-limbo-\(UUID().uuidString)"

  init(_ mode: Mode = .never) { state = Lock(State(mode: mode)) }

  deinit { try? FileManager.default.removeItem(atPath: limbo) }

  /// A place for one file that is taken away.
  func placeInLimbo() -> String {
    mkdir(limbo, 0o700)
    return "\(limbo)/\(UUID().uuidString)"
  }

  var calls: Int { state.withLock { $0.calls } }
  var changes: Int { state.withLock { $0.changes } }
  var wasHit: Bool { state.withLock { $0.wasHit } }

  func disarm() { state.withLock { $0.mode = .never } }

  /// What is to become of one call.
  func verdict(isChange: Bool) -> (code: Int32, isDone: Bool)? {
    state.withLock { state in
      state.calls += 1
      if isChange { state.changes += 1 }
      switch state.mode {
      case .never: return nil
      case .fail(let call, let code, let isDone):
        guard state.calls == call else { return nil }
        state.wasHit = true
        return (code, isDone)
      case .cut(let change):
        guard isChange, state.changes >= change else { return nil }
        state.wasHit = true
        return (Self.cutCode, false)
      }
    }
  }

  /// One call: carried out unless the plan says otherwise.
  func step<Result>(
    _ isChange: Bool, _ body: () throws(SystemError) -> Result
  ) throws(SystemError) -> Result {
    guard let verdict = verdict(isChange: isChange) else { return try body() }
    if verdict.isDone { _ = try body() }
    throw SystemError(verdict.code, "a fault that was planned")
  }

  func note(_ owner: String, undo: @escaping @Sendable () -> Void) {
    state.withLock { $0.pending.append((owner, undo)) }
  }

  func settle(_ owner: String) {
    state.withLock { state in state.pending.removeAll { $0.owner == owner } }
  }

  /// Takes back whatever wasn't made durable, latest first: the worst that a power cut can do.
  func losePending() {
    let pending = state.withLock { state in
      defer { state.pending = [] }
      return state.pending
    }
    for change in pending.reversed() { change.undo() }
  }
}

/// The files of a real folder, failing as planned, and remembering what a power cut would take back.
struct FaultyFiles: FolderFiles {
  let root: String
  let next: LocalFolderFiles
  let plan: FaultPlan

  init(_ folder: Folder, plan: FaultPlan) {
    next = LocalFolderFiles(folder)
    self.plan = plan
    root =
      (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/\(folder.descriptor.rawValue)")) ?? "?"
  }

  private func full(_ path: String) -> String { path == "." ? root : "\(root)/\(path)" }
  private func folder(_ path: String) -> String { (full(path) as NSString).deletingLastPathComponent }

  func isWritable() throws(SystemError) -> Bool {
    try plan.step(false) { () throws(SystemError) in try next.isWritable() }
  }

  func makeFolder(_ path: String) throws(SystemError) {
    try plan.step(true) { () throws(SystemError) in
      try next.makeFolder(path)
      let place = full(path)
      plan.note(folder(path)) { try? FileManager.default.removeItem(atPath: place) }
    }
  }

  func entries(of path: String, limit: Int) throws(SystemError) -> [FolderEntry] {
    try plan.step(false) { () throws(SystemError) in try next.entries(of: path, limit: limit) }
  }

  func status(of path: String) throws(SystemError) -> FileStatus? {
    try plan.step(false) { () throws(SystemError) in try next.status(of: path) }
  }

  func contents(of path: String, limit: Int) throws(SystemError) -> [UInt8] {
    try plan.step(false) { () throws(SystemError) in try next.contents(of: path, limit: limit) }
  }

  func createFile(_ path: String) throws(SystemError) -> FileDescriptor {
    try plan.step(true) { () throws(SystemError) in
      let file = try next.createFile(path)
      let place = full(path)
      plan.note(folder(path)) { try? FileManager.default.removeItem(atPath: place) }
      return file
    }
  }

  func openFile(_ path: String, isReadOnly: Bool) throws(SystemError) -> FileDescriptor {
    try plan.step(false) { () throws(SystemError) in try next.openFile(path, isReadOnly: isReadOnly) }
  }

  func write(_ bytes: [UInt8], to file: FileDescriptor) throws(SystemError) {
    try plan.step(true) { () throws(SystemError) in
      try next.write(bytes, to: file)
      noteContents(file)
    }
  }

  func synchronize(_ file: FileDescriptor) throws(SystemError) {
    try plan.step(true) { () throws(SystemError) in
      try next.synchronize(file)
      settleContents(file)
    }
  }

  func synchronizeFolder(_ path: String) throws(SystemError) {
    try plan.step(true) { () throws(SystemError) in
      try next.synchronizeFolder(path)
      plan.settle(full(path))
    }
  }

  func rename(_ path: String, to target: String, isReplacing: Bool) throws(SystemError) {
    let (old, new) = (full(path), full(target))
    try plan.step(true) { () throws(SystemError) in
      // What is replaced comes back with the old name.
      let kept = plan.placeInLimbo()
      if isReplacing { link(new, kept) }
      try next.rename(path, to: target, isReplacing: isReplacing)
      plan.note(folder(target)) {
        Glibc.rename(new, old)
        Glibc.rename(kept, new)
      }
    }
  }

  func removeFile(_ path: String) throws(SystemError) {
    let (place, kept) = (full(path), plan.placeInLimbo())
    try plan.step(true) { () throws(SystemError) in
      link(place, kept)
      try next.removeFile(path)
      plan.note(folder(path)) { Glibc.rename(kept, place) }
    }
  }

  func removeFolder(_ path: String) throws(SystemError) {
    try plan.step(true) { () throws(SystemError) in try next.removeFolder(path) }
  }

  nonisolated(nonsending)
    func device(
      over file: FileDescriptor, isReadOnly: Bool, direct: Bool, on loop: EventLoop
    ) async throws(BlockError) -> any BlockDevice
  {
    if let verdict = plan.verdict(isChange: false) { throw BlockError(errno: verdict.code, .open, cause: "planned") }
    let device = try await next.device(over: file, isReadOnly: isReadOnly, direct: direct, on: loop)
    return PlannedDevice(device, plan, noteContents: { noteContents(file) }, settleContents: { settleContents(file) })
  }

  /// The name of an open file's undurable contents among what is pending.
  private func owner(_ file: FileDescriptor) -> String {
    (try? file.status()).map { "file \($0.device).\($0.inode)" } ?? "?"
  }

  private func noteContents(_ file: FileDescriptor) {
    guard let place = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/\(file.rawValue)")
    else { return }
    plan.note(owner(file)) {
      // Wherever it is called now, its bytes never reached the disk.
      truncate(place, 0)
    }
  }

  private func settleContents(_ file: FileDescriptor) { plan.settle(owner(file)) }
}

/// A device that fails as planned; a write that fails as the storage is cut is torn.
final class PlannedDevice: BlockFilter, @unchecked Sendable {
  // Safe to hand over: confined to its loop, like every device.
  let next: any BlockDevice
  private let plan: FaultPlan
  private let noteContents: () -> Void
  private let settleContents: () -> Void

  init(
    _ next: any BlockDevice, _ plan: FaultPlan, noteContents: @escaping () -> Void, settleContents: @escaping () -> Void
  ) {
    self.next = next
    self.plan = plan
    self.noteContents = noteContents
    self.settleContents = settleContents
  }

  private func check(_ operation: BlockError.Operation, isChange: Bool) throws(BlockError) {
    if let verdict = plan.verdict(isChange: isChange) {
      throw BlockError(errno: verdict.code, operation, cause: "a fault that was planned")
    }
  }

  nonisolated(nonsending)
    func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError)
  {
    try check(.read, isChange: false)
    try await next.read(into: &buffer, at: offset)
  }

  nonisolated(nonsending)
    func change(
      _ kind: BlockChange, _ range: ByteRange,
      _ perform: nonisolated(nonsending) (ByteRange) async throws(BlockError) -> Void
    ) async throws(BlockError)
  {
    noteContents()
    if let verdict = plan.verdict(isChange: true) {
      if case .write = kind { try? await perform(ByteRange(offset: range.offset, length: range.length / 2)) }
      throw BlockError(errno: verdict.code, kind.operation, cause: "a fault that was planned")
    }
    try await perform(range)
  }

  nonisolated(nonsending)
    func flush() async throws(BlockError)
  {
    try check(.flush, isChange: true)
    try await next.flush()
    settleContents()
  }

  nonisolated(nonsending)
    func blockStatus(_ range: ByteRange, limit: Int) async throws(BlockError) -> [Extent]
  {
    try check(.blockStatus, isChange: false)
    return try await next.blockStatus(range, limit: limit)
  }
}
