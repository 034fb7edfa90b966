import Bytes
import BlockCore
import Buffers
import Failures
import Model
import Qcow2

/// One file of a chain, as the manifests say that it is.
package struct ChainLayer: Sendable {
  /// What a person knows the file by.
  package let name: String
  /// Of the disk in the image.
  package let byteCount: UInt64
  /// The qcow2 file that it builds on, as the image must call it.
  package let backingName: String?
  /// What the image must say that it is, if it says so.
  package let identity: UInt128?
  /// Opens the file, to be read.
  package let open: nonisolated(nonsending) @Sendable () async throws -> any BlockDevice

  package init(
    name: String, byteCount: UInt64, backingName: String?, identity: UInt128? = nil,
    open: nonisolated(nonsending) @escaping @Sendable () async throws -> any BlockDevice
  ) {
    self.name = name
    self.byteCount = byteCount
    self.backingName = backingName
    self.identity = identity
    self.open = open
  }
}

/// The files of a chain, opened when they are needed; the ones that weren't used for longest are closed again.
///
/// Each is compared with what the chain says of it whenever it is opened, and with what it was the first time: a file
/// that took its place in between is damage. The top and the lowest stay open. Confined to one loop.
final class ChainLayers: @unchecked Sendable {
  // Safe to hand over: confined to its loop, like the devices.

  private struct State {
    let layer: ChainLayer
    var image: Qcow2Image?
    /// What the file was when it was opened first.
    var identity: Identity?
    /// Requests that read from it.
    var userCount = 0
    var lastUse: UInt64 = 0
  }

  private struct Identity: Hashable {
    let fileByteCount: UInt64
    let tables: Digest
  }

  /// Files that stay open: more than the default length of a chain.
  static let openFileCount = 256
  /// For each file between the top and the lowest: increments are small, and there are many.
  private static let mappingCacheByteCount = 512 << 10

  private let limit: Int
  private let work: any BackgroundWork
  private let pool: BufferPool
  private var states: [State]
  private let openings = RangeLock()
  private(set) var openCount = 0
  private var openTableByteCount = 0
  private var useCount: UInt64 = 0

  init(_ layers: [ChainLayer], limit: Int, work: any BackgroundWork, pool: BufferPool) {
    states = layers.map { State(layer: $0) }
    self.limit = limit
    self.work = work
    self.pool = pool
  }

  var count: Int { states.count }
  func name(_ index: Int) -> String { states[index].layer.name }

  /// The image, if its file is open. It stays so until the caller suspends.
  func opened(_ index: Int) -> Qcow2Image? {
    guard let image = states[index].image else { return nil }
    useCount += 1
    states[index].lastUse = useCount
    return image
  }

  /// The image, whose file stays open until it is given back.
  /// - Throws: `backupCorrupt` where the file isn't what the chain says.
  nonisolated(nonsending)
    func take(_ index: Int) async throws -> Qcow2Image
  {
    states[index].userCount += 1
    if let image = opened(index) { return image }
    let hold = await openings.acquire(ByteRange(offset: UInt64(index), length: 1), .exclusive)
    defer { openings.release(hold) }
    if let image = opened(index) { return image }
    let image = try await attempt {
      await makeRoom()
      return try await open(index)
    } orCleanUp: {
      giveBack(index)
    }
    states[index].image = image
    openCount += 1
    openTableByteCount += image.tableByteCount
    return opened(index) ?? image
  }

  func giveBack(_ index: Int) { states[index].userCount -= 1 }

  /// Nothing is being read.
  nonisolated(nonsending)
    func close() async
  {
    for index in states.indices { await close(index) }
  }

  // MARK: Opening

  nonisolated(nonsending)
    private func open(_ index: Int) async throws -> Qcow2Image
  {
    let (layer, isTop, isLowest) = (states[index].layer, index == 0, index == count - 1)
    let device = try await layer.open()
    let fileByteCount = device.byteCount
    let image = try await telling(about: layer.name, damage: .backupCorrupt) {
      try await attempt {
        // The top may be checked, which needs its refcounts.
        var options = Qcow2Image.OpenOptions(isReadOnly: true, depth: isTop ? 0 : 1)
        if !isTop, !isLowest { options.mappingCacheByteCount = Self.mappingCacheByteCount }
        return try await Qcow2Image.open(device, options: options, backing: .ignored, work: work, pool: pool)
      } orCleanUp: {
        try? await device.close()
      }
    }
    return try await attempt {
      try check(image, against: layer)
      let identity = Identity(fileByteCount: fileByteCount, tables: image.tableDigest)
      if let known = states[index].identity, known != identity {
        throw Self.damage("\(layer.name) isn't the file any more that it was")
      }
      states[index].identity = identity
      return image
    } orCleanUp: {
      try? await image.close()
    }
  }

  private func check(_ image: Qcow2Image, against layer: ChainLayer) throws {
    let backing = try image.statedBacking
    guard backing?.name == layer.backingName else {
      throw Self.damage(
        "\(layer.name) builds on \(backing?.name ?? "nothing") instead of \(layer.backingName ?? "nothing")")
    }
    if let format = backing?.format ?? backing.map({ _ in "no format" }), format != DiskFormat.qcow2.rawValue {
      throw Self.damage("\(layer.name) builds on a file of \(format) instead of qcow2")
    }
    guard image.isWhatItSays(layer.identity) else { throw Self.damage("\(layer.name) is the data of another backup") }
    guard image.byteCount == layer.byteCount else {
      throw Self.damage("\(layer.name) is of \(image.byteCount) bytes instead of \(layer.byteCount)")
    }
  }

  private static func damage(_ text: String) -> DomainError {
    DomainError(.backupCorrupt, text, remedy: "use another backup")
  }

  // MARK: Closing

  /// Closes what wasn't used for longest, as far as nothing reads from it: there may be as many more as requests.
  nonisolated(nonsending)
    private func makeRoom() async
  {
    while openCount >= limit || openTableByteCount > Qcow2Image.maximumChainTableByteCount {
      let idle = states.indices.dropFirst().dropLast().filter { states[$0].image != nil && states[$0].userCount == 0 }
      guard let oldest = idle.min(by: { states[$0].lastUse < states[$1].lastUse }) else { return }
      await close(oldest)
    }
  }

  nonisolated(nonsending)
    private func close(_ index: Int) async
  {
    guard let image = states[index].image else { return }
    states[index].image = nil
    openCount -= 1
    openTableByteCount -= image.tableByteCount
    try? await image.close()
  }
}
