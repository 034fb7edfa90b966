import Bytes
import EventLoops
import Glibc
import Locks
import Model
import Repositories

/// The sidecars of all images, in a folder of the server's own: a folder for each image, named by its path, with a file
/// for each tracker. A file's name tells whether the image was closed since.
final class SidecarFolder: Sendable {
  /// A sidecar as it was found, and whose it is by its name.
  struct Found: Sendable {
    let tracker: TrackerName
    /// Nil where the file can't be read.
    let name: TrackerBitmapName?
    let sidecar: Result<TrackerSidecar, TrackerSidecar.Lack>
  }

  private static let folder = "sidecars"
  private static let openSuffix = ".open"
  private static let workSuffix = ".part"
  /// Names that one image's folder has at most: each tracker may have three.
  private static let maximumNameCount = 4096

  let configuration: TrackingConfiguration
  /// One change at a time.
  private let turn = Lock(())

  init(_ configuration: TrackingConfiguration) { self.configuration = configuration }

  /// What calls may hang with. All of them block.
  var lane: BlockingLane { .folder(configuration.stateFolder) }

  private func path(of image: String) -> String {
    "\(Self.folder)/\(Digest(of: Array(image.utf8).span.bytes).description.prefix(32))"
  }

  private func open() throws(SystemError) -> any FolderFiles {
    configuration.openFiles(try Folder(path: configuration.stateFolder))
  }

  // MARK: Reading

  /// All of an image, in order of name.
  func all(of image: String) throws(SystemError) -> [Found] {
    guard access(configuration.stateFolder, F_OK) == 0 else { return [] }
    let files = try open()
    let folder = path(of: image)
    guard try files.status(of: folder) != nil else { return [] }
    let names = Set(try files.entries(of: folder, limit: Self.maximumNameCount).map(\.name))
    var found: [Found] = []
    for name in names.sorted() where !name.hasSuffix(Self.workSuffix) {
      let isOpen = name.hasSuffix(Self.openSuffix)
      guard let tracker = TrackerName(isOpen ? String(name.dropLast(Self.openSuffix.count)) : name),
        !isOpen || !names.contains(tracker.text)
      else { continue }
      found.append(read("\(folder)/\(name)", tracker, of: image, isOpen: isOpen, files))
    }
    return found
  }

  /// The tracker's; nil if it has none.
  func find(_ tracker: TrackerName, of image: String) throws(SystemError) -> Found? {
    try all(of: image).first { $0.tracker == tracker }
  }

  /// One that can't be read is told as such: it counts for nothing, and nothing else depends on it.
  private func read(
    _ path: String, _ tracker: TrackerName, of image: String, isOpen: Bool, _ files: any FolderFiles
  ) -> Found {
    func flawed(_ text: String) -> Found {
      Found(tracker: tracker, name: nil, sidecar: .failure(.init(reason: .trackingLost, text: text)))
    }
    let (bytes, mark): ([UInt8], TrackerSidecar.FileMark)
    do throws(SystemError) {
      let file = try files.openFile(path, isReadOnly: true)
      defer { file.close() }
      let status = try file.status()
      guard status.byteCount <= UInt64(TrackerSidecar.maximumByteCount) else {
        return flawed("this server's record of the image's changes is too long")
      }
      mark = try TrackerSidecar.FileMark(file)
      bytes = try files.contents(of: path, limit: Int(status.byteCount))
    } catch {
      return flawed("this server's record of the image's changes can't be read: \(error)")
    }
    guard let sidecar = TrackerSidecar(decoding: bytes), sidecar.head.image == image, sidecar.head.tracker == tracker
    else { return flawed("this server's record of the image's changes is damaged") }
    guard sidecar.head.own == mark else {
      return flawed("this server's record of the image's changes is a copy, of which it isn't known what it missed")
    }
    if isOpen {
      let lack = TrackerSidecar.Lack(
        reason: .uncleanStop, text: "the server was stopped while the image was open to be written")
      return Found(tracker: tracker, name: sidecar.name, sidecar: .failure(lack))
    }
    return Found(
      tracker: tracker, name: sidecar.name, sidecar: sidecar.head.lack.map { .failure($0) } ?? .success(sidecar))
  }

  // MARK: Changes

  /// Puts it in the place of what its tracker has. Durable when it returns.
  func put(_ sidecar: TrackerSidecar) throws {
    try turn.withLock { _ in
      guard mkdir(configuration.stateFolder, 0o700) == 0 || errno == EEXIST else {
        throw SystemError(errno, configuration.stateFolder)
      }
      let files = try open()
      let folder = path(of: sidecar.head.image)
      if try files.ensureFolder(Self.folder) { try files.synchronizeFolder(".") }
      if try files.ensureFolder(folder) { try files.synchronizeFolder(Self.folder) }
      let name = "\(folder)/\(sidecar.head.tracker)"
      let work = name + Self.workSuffix
      _ = try files.removeIfPresent(work)
      let file = try files.createFile(work)
      do {
        var sidecar = sidecar
        sidecar.head.own = try TrackerSidecar.FileMark(file)
        try files.write(try sidecar.encoded(), to: file)
        try files.synchronize(file)
        file.close()
        try files.rename(work, to: name, isReplacing: true)
      } catch {
        file.close()
        // One that stays is never read.
        try? files.removeFile(work)
        throw error
      }
      try files.synchronizeFolder(folder)
      // One that stays counts for nothing beside what is closed.
      try? files.removeFile(name + Self.openSuffix)
    }
  }

  /// Has all of an image say that it is open to be written. Durable when it returns.
  func beginWriting(_ image: String) throws(SystemError) {
    try change(image) { files, folder, name throws(SystemError) in
      if TrackerName(name) != nil {
        try files.rename("\(folder)/\(name)", to: "\(folder)/\(name)\(Self.openSuffix)", isReplacing: true)
      }
    }
  }

  /// Removes those of a tracker, or, nil: all of an image. Durable when it returns.
  func remove(_ tracker: TrackerName?, of image: String) throws(SystemError) {
    try change(image) { files, folder, name throws(SystemError) in
      guard tracker == nil || name.split(separator: ".").first.map(String.init) == tracker?.text else { return }
      _ = try files.removeIfPresent("\(folder)/\(name)")
    }
    guard tracker == nil else { return }
    // An empty folder says nothing.
    try? open().removeFolder(path(of: image))
  }

  /// Does something with each name in an image's folder.
  private func change(
    _ image: String, _ body: (any FolderFiles, String, String) throws(SystemError) -> Void
  ) throws(SystemError) {
    let result = turn.withLock { _ -> Result<Void, SystemError> in
      do throws(SystemError) {
        guard access(configuration.stateFolder, F_OK) == 0 else { return .success(()) }
        let files = try open()
        let folder = path(of: image)
        guard try files.status(of: folder) != nil else { return .success(()) }
        for entry in try files.entries(of: folder, limit: Self.maximumNameCount) {
          try body(files, folder, entry.name)
        }
        return .success(try files.synchronizeFolder(folder))
      } catch {
        return .failure(error)
      }
    }
    try result.get()
  }
}
