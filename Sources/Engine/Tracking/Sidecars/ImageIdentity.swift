import Descriptors
import EventLoops
import Glibc
import Model

/// What tells one state of an image from another by its files alone: which files they are, how long they are, and the
/// kernel's times of their last changes.
///
/// A write changes the time of change (ctime), which no program can set back. It is told apart from an earlier one if
/// the time is older than the file system's clock is coarse: see ``OpenImage/settledIdentity(_:on:)``. Three things hide
/// a write all the same, and are met so:
///
/// - A store into mapped memory changes the times with the page fault, and not again until the page was written back. So
///   the file is flushed before its times are read: from then on the next store has a fault again. (Where nothing is
///   written back, in a file system in memory, a mapping that was written to before stays unseen.)
/// - A power loss may keep data and lose times, which fdatasync doesn't make durable. So an identity is of one boot.
/// - A request past the page cache changes the times when it is submitted. It ends in a fraction of the time that is
///   waited.
struct ImageIdentity: Codable, Hashable, Sendable {
  struct File: Codable, Hashable, Sendable {
    var device: UInt64
    var inode: UInt64
    var byteCount: UInt64
    /// In nanoseconds since 1970: of the data, and of the data or what is said of them.
    var modified: Int64
    var changed: Int64
  }

  /// A block device has no times: that nothing else writes to it is promised.
  struct Device: Codable, Hashable, Sendable {
    var number: UInt64
    /// Tells it from others that had its number before; nil where the kernel doesn't count them.
    var sequence: UInt64?
    var byteCount: UInt64
  }

  enum Layer: Codable, Hashable, Sendable {
    case file(File)
    case device(Device)

    /// Since when it has been as it is, in nanoseconds since 1970; nil of a device.
    var changed: Int64? { if case .file(let file) = self { file.changed } else { nil } }
  }

  var boot: String
  /// The image first, then what it stands on.
  var layers: [Layer]

  init(layers: [Layer]) {
    boot = String(SystemClock.boot(), radix: 16)
    self.layers = layers
  }

  /// Why an image that had this identity may hold something else; nil if it holds the same.
  /// - Parameter paths: of the layers of `now`.
  func refusal(_ now: ImageIdentity, paths: [String]) -> (FallbackReason, String)? {
    guard boot == now.boot else {
      return (.trackingLost, "the machine was started anew, and the times of files may not survive that")
    }
    guard layers.count == now.layers.count else { return (.identityChanged, "the image stands on other files") }
    for (index, (old, new)) in zip(layers, now.layers).enumerated() where old != new {
      let path = index < paths.count ? paths[index] : "a file of the image"
      guard case (.file(let old), .file(let new)) = (old, new), (old.device, old.inode) == (new.device, new.inode)
      else { return (.identityChanged, "\(path) is another file or device than it was") }
      guard old.byteCount == new.byteCount else {
        return (.identityChanged, "\(path) was \(old.byteCount) bytes long and is \(new.byteCount)")
      }
      return (.trackingLost, "\(path) was changed by something that doesn't record what it changes")
    }
    return nil
  }
}

extension ImageIdentity.Layer {
  /// As it is at this moment. Blocks.
  init(of file: FileDescriptor) throws(SystemError) {
    var status = stat()
    guard fstat(file.rawValue, &status) == 0 else { throw SystemError(errno) }
    if status.st_mode & S_IFMT == S_IFBLK {
      self = .device(
        ImageIdentity.Device(
          number: UInt64(status.st_rdev), sequence: file.diskSequence(),
          byteCount: try file.blockDeviceGeometry().byteCount))
      return
    }
    self = .file(
      ImageIdentity.File(
        device: UInt64(status.st_dev), inode: UInt64(status.st_ino), byteCount: UInt64(status.st_size),
        modified: status.st_mtim.nanoseconds, changed: status.st_ctim.nanoseconds))
  }
}

extension timespec {
  fileprivate var nanoseconds: Int64 { Int64(tv_sec) * 1_000_000_000 + Int64(tv_nsec) }
}

// MARK: Taking it

extension LayerFile {
  /// How often a file is looked at whose times are too new, or that goes on being changed.
  private static let looks = 3

  /// Its identity, once its times are older than `resolution`; nil if they don't come to be.
  nonisolated(nonsending)
    func settledIdentity(_ resolution: Duration, on loop: EventLoop) async throws(SystemError) -> ImageIdentity.Layer?
  {
    let nanoseconds = resolution.components.seconds * 1_000_000_000 + resolution.components.attoseconds / 1_000_000_000
    for _ in 0..<Self.looks {
      let layer = try await loop.blocking(in: .folder(of: path)) { [descriptor] () throws(SystemError) in
        guard Glibc.fsync(descriptor.rawValue) == 0 else { throw SystemError(errno) }
        return try ImageIdentity.Layer(of: descriptor)
      }
      guard let changed = layer.changed else { return layer }
      let age = SystemClock.nanoseconds() - changed
      if age >= nanoseconds { return layer }
      try await loop.sleep(for: .nanoseconds(min(nanoseconds - age, nanoseconds) + Self.tick))
    }
    return nil
  }

  /// What the kernel's clock may be behind.
  private static let tick: Int64 = 10_000_000
}

extension OpenImage {
  /// The image's identity, once the times of all its files are older than `resolution`: a later change has others then.
  /// Nil if it has none: it goes on being changed, or is served by another server.
  nonisolated(nonsending)
    func settledIdentity(_ resolution: Duration, on loop: EventLoop) async throws(SystemError) -> ImageIdentity?
  {
    var layers: [ImageIdentity.Layer] = []
    for file in files {
      guard let layer = try await file.settledIdentity(resolution, on: loop) else { return nil }
      layers.append(layer)
    }
    return layers.isEmpty ? nil : ImageIdentity(layers: layers)
  }

  /// As it is at this moment.
  nonisolated(nonsending)
    func identity(on loop: EventLoop) async throws(SystemError) -> ImageIdentity
  {
    let descriptors = files.map(\.descriptor)
    return ImageIdentity(
      layers: try await loop.blocking(in: .folder(of: name)) { () throws(SystemError) in
        var layers: [ImageIdentity.Layer] = []
        for descriptor in descriptors { layers.append(try ImageIdentity.Layer(of: descriptor)) }
        return layers
      })
  }
}
