import BlockCore
import BlockTesting
import Testing

@testable import Qcow2

/// A seeded story on an image over a device that fails or loses power, with everything the image may then hold.
///
/// Since the last flush every byte has had several versions: the flushed one, and one after each operation, also
/// after the one that failed. Whatever happens to the device, a sector holds one of these.
final class RecoveryStory: @unchecked Sendable {
  // Safe to hand over: confined to the test's loop.

  struct Setting: Sendable, CustomTestStringConvertible {
    var clusterByteCount: Int
    var refcountBits = 16
    var byteCount: UInt64 = 160 << 10
    /// Written before the story begins.
    var filled: UInt64 = 0
    var hasBacking = false
    var hasSubclusters = false
    var resizes = false
    var steps = 14
    /// Of the calls at which power may go, one in so many is tried, fewer with more `TEST_EFFORT`.
    var sampling = 1
    /// What the device wants, as a file open for direct I/O.
    var alignment = 1
    var device: MemoryDevice.Options {
      var options = MemoryDevice.Options()
      options.limits.requestAlignment = alignment
      return options
    }
    var stride: Int { max(1, sampling / TestEffort.factor) }
    var testDescription: String {
      "\(clusterByteCount) \(refcountBits) bits\(hasBacking ? ", backing" : "")\(hasSubclusters ? ", subclusters" : "")\(filled > 0 ? ", filled" : "")\(alignment > 1 ? ", blocks of \(alignment)" : "")"
    }
  }

  static let settings = [
    Setting(clusterByteCount: 512, resizes: true),
    Setting(clusterByteCount: 512, refcountBits: 64, byteCount: 2_400_256, filled: 2_024_960, steps: 10),
    Setting(clusterByteCount: 4096, refcountBits: 8, hasBacking: true),
    Setting(clusterByteCount: 65536, byteCount: 400 << 10),
    Setting(clusterByteCount: 4096, steps: 18, alignment: 512),
    Setting(clusterByteCount: 16384, hasBacking: true, hasSubclusters: true),
    Setting(clusterByteCount: 65536, byteCount: 200 << 10, hasSubclusters: true, resizes: true, sampling: 2),
    Setting(clusterByteCount: 2 << 20, byteCount: (2 << 20) + 5120, steps: 8, sampling: 9),
    Setting(
      clusterByteCount: 2 << 20, byteCount: (2 << 20) + 5120, hasBacking: true, hasSubclusters: true, sampling: 13),
  ]

  /// What a write changes at once: half a sector, as the faulty device tears the shortest writes there.
  static let atomByteCount = 256
  let setting: Setting
  let backing: SparseImage?
  private(set) var versions: [ByteModel]
  private let beginning: ByteModel
  private var random: SeededRandom
  private let seed: UInt64

  private init(_ setting: Setting, _ backing: SparseImage?, _ model: ByteModel, _ seed: UInt64) {
    self.setting = setting
    self.backing = backing
    versions = [model]
    beginning = model
    random = SeededRandom(seed: seed)
    self.seed = seed
  }

  /// The same story, not yet told.
  func again() -> RecoveryStory { RecoveryStory(setting, backing, beginning, seed) }

  /// The image file at the beginning, all durable, and the story about it.
  nonisolated(nonsending)
    static func begin(_ setting: Setting, seed: UInt64) async throws -> (file: SparseImage, story: RecoveryStory)
  {
    var random = SeededRandom(seed: seed)
    var model = ByteModel(byteCount: setting.byteCount)
    var options = Qcow2Image.CreateOptions(
      virtualByteCount: setting.byteCount, clusterByteCount: setting.clusterByteCount,
      refcountBits: setting.refcountBits, hasSubclusters: setting.hasSubclusters)
    var below: SparseImage?
    if setting.hasBacking {
      let bytes = random.bytes(Int(setting.byteCount) / 2)
      var base = SparseImage(byteCount: UInt64(bytes.count))
      base.write(bytes.span.bytes, at: 0)
      model.write(bytes, at: 0)
      below = base
      options.backing = .init(name: "base", format: "raw")
    }
    let (file, image) = try await makeImage(options, backing: source(below), device: setting.device)
    if setting.filled > 0 {
      let bytes = random.bytes(Int(setting.filled))
      try await image.writeBytes(bytes, at: 0)
      model.write(bytes, at: 0)
    }
    try await image.close()
    return (file.image, RecoveryStory(setting, below, model, seed &+ 1))
  }

  static func source(_ below: SparseImage?) -> BackingSource {
    guard let below else { return .none }
    return .device(MemoryDevice(below))
  }

  /// Opens the image, goes through all steps and closes it; throws what the device makes fail.
  nonisolated(nonsending)
    func run(on file: any BlockDevice) async throws
  {
    let image = try await openImage(file, backing: Self.source(backing), cacheByteCount: 32 << 10)
    do {
      for _ in 0..<setting.steps { try await step(image) }
    } catch {
      try? await image.close()
      throw error
    }
    try await image.close()
    if let last = versions.last { versions = [last] }
  }

  nonisolated(nonsending)
    private func step(_ image: Qcow2Image) async throws
  {
    guard var model = versions.last else { return }
    let cluster = setting.clusterByteCount
    let size = UInt64(model.bytes.count)
    let range = random.range(within: size, alignment: 512, maximum: max(3 * cluster, 40_000), near: cluster)
    switch random.below(setting.resizes ? 10 : 9) {
    case 0...2:
      let bytes = random.bytes(range.count)
      model.write(bytes, at: range.lowerBound)
      versions.append(model)
      try await image.writeBytes(bytes, at: range.lowerBound)
    case 3, 4: try await writeCompressed(range, image)
    case 5:
      model.zero(ByteRange(range))
      versions.append(model)
      try await image.writeZeroes(ByteRange(range), options: .mayUnmap)
    case 6: try await discard(range, image)
    case 7, 8:
      try await image.flush()
      versions = [model]
    default:
      model.resize(to: size + UInt64(1 + random.below(80)) * 512)
      versions.append(model)
      try await image.resize(to: UInt64(model.bytes.count))
    }
  }

  nonisolated(nonsending)
    private func discard(_ range: Range<UInt64>, _ image: Qcow2Image) async throws
  {
    guard var model = versions.last else { return }
    model.zero(ByteRange(try await image.discardable(range)))
    versions.append(model)
    try await image.discard(ByteRange(range))
  }

  nonisolated(nonsending)
    private func writeCompressed(_ range: Range<UInt64>, _ image: Qcow2Image) async throws
  {
    guard var model = versions.last else { return }
    let cluster = setting.clusterByteCount
    let compressor = try ClusterCompressor(type: .zlib, clusterByteCount: cluster)
    var clusters: [CompressedCluster] = []
    var packed: [UInt8] = []
    for index in (range.lowerBound / UInt64(cluster))...((range.upperBound - 1) / UInt64(cluster)) {
      let noise = random.bytes(random.below(cluster / 2))
      let plain = noise + [UInt8](repeating: UInt8(index & 0xff), count: cluster - noise.count)
      var output = [UInt8](repeating: 0, count: cluster)
      guard let count = compress(plain, compressor, &output) else { continue }
      let offset = index * UInt64(cluster)
      clusters.append(CompressedCluster(guestOffset: offset, byteCount: count))
      packed += output[..<count]
      model.write(Array(plain.prefix(Int(min(UInt64(cluster), UInt64(model.bytes.count) - offset)))), at: offset)
    }
    versions.append(model)
    let bytes = packed
    try await image.writeCompressed(clusters, from: bytes.span.bytes)
  }

  /// Throws unless the image in `file` opens, is sound but for leaks, and holds nothing but versions of its sectors.
  nonisolated(nonsending)
    func verify(_ file: any BlockDevice, _ what: String) async throws
  {
    let image = try await openImage(file, isReadOnly: true, backing: Self.source(backing))
    let report = try await image.check()
    guard report.corruptionCount == 0 else { throw ConformanceFailure("\(what): \(report)") }
    let found = try await image.readAll()
    guard versions.contains(where: { $0.bytes.count == found.count }) else {
      throw ConformanceFailure("\(what): the image has \(found.count) bytes")
    }
    // Most disks hold one version as a whole.
    if versions.contains(where: { $0.bytes == found }) { return try await image.close() }
    let atom = Self.atomByteCount
    for start in stride(from: 0, to: found.count, by: atom) {
      let bytes = found[start..<min(start + atom, found.count)]
      let isVersion = versions.contains { version in
        // Past the end of an older, smaller version there were zeroes.
        guard start < version.bytes.count else { return bytes.allSatisfy { $0 == 0 } }
        return version.firstDifference(from: Array(bytes), at: UInt64(start)) == nil
      }
      guard isVersion else { throw ConformanceFailure("\(what): the guest bytes at \(start) are no version of them") }
    }
    try await image.close()
  }
}
