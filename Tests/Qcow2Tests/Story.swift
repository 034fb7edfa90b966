import BlockCore
import BlockTesting

@testable import Qcow2

/// Seeded operations on an image and on its model.
final class Story: @unchecked Sendable {
  // Safe to hand over: confined to the test's loop until that has ended.

  var file: MemoryDevice
  var image: Qcow2Image
  var model: ByteModel
  var random: SeededRandom
  /// What the backing file holds, if there is one.
  let below: SparseImage?
  let variant: WritingTests.Variant

  nonisolated(nonsending)
    init(_ variant: WritingTests.Variant, seed: UInt64) async throws
  {
    random = SeededRandom(seed: seed)
    self.variant = variant
    model = ByteModel(byteCount: variant.byteCount)
    var options = Qcow2Image.CreateOptions(
      virtualByteCount: variant.byteCount, clusterByteCount: variant.clusterByteCount,
      compressionType: variant.compressionType, refcountBits: variant.refcountBits,
      hasSubclusters: variant.hasSubclusters)
    if variant.hasBacking {
      let bytes = random.bytes(Int(variant.byteCount) * 2 / 3)
      var base = SparseImage(byteCount: UInt64(bytes.count))
      base.write(bytes.span.bytes, at: 0)
      model.write(bytes, at: 0)
      below = base
      options.backing = .init(name: "base.raw", format: "raw")
    } else {
      below = nil
    }
    (file, image) = try await makeImage(
      options, backing: Self.source(below), device: variant.device, cacheByteCount: 32 << 10)
  }

  nonisolated(nonsending)
    func reopen() async throws
  {
    try await image.close()
    file = MemoryDevice(file.image, options: variant.device)
    image = try await openImage(file, backing: Self.source(below), cacheByteCount: 32 << 10)
  }

  private static func source(_ below: SparseImage?) -> BackingSource {
    guard let below else { return .none }
    return .device(MemoryDevice(below))
  }

  nonisolated(nonsending)
    func step() async throws
  {
    let cluster = variant.clusterByteCount
    let range = random.range(
      within: variant.byteCount, alignment: random.oneIn(4) ? 1 : 512, maximum: max(6 * cluster, 5000),
      near: random.oneIn(2) ? cluster : cluster / 32)
    switch random.below(12) {
    case 0...4: try await write(range)
    case 5, 6: try await writeCompressed(range)
    case 7, 8:
      try await image.writeZeroes(ByteRange(range), options: random.oneIn(2) ? .mayUnmap : [])
      model.zero(ByteRange(range))
    case 9: try await discard(range)
    case 10: try await image.flush()
    default: try await model.check(image, ByteRange(range), "\(random)")
    }
  }

  nonisolated(nonsending)
    private func write(_ range: Range<UInt64>) async throws
  {
    let bytes = random.bytes(range.count)
    try await image.writeBytes(bytes, at: range.lowerBound, options: random.oneIn(9) ? .forceUnitAccess : [])
    model.write(bytes, at: range.lowerBound)
  }

  /// Discarded clusters may read as before or as zeroes; here they must be zeroes, and only they.
  nonisolated(nonsending)
    private func discard(_ range: Range<UInt64>) async throws
  {
    let zeroed = try await image.discardable(range)
    try await image.discard(ByteRange(range))
    model.zero(ByteRange(zeroed))
  }

  nonisolated(nonsending)
    private func writeCompressed(_ range: Range<UInt64>) async throws
  {
    let cluster = variant.clusterByteCount
    let compressor = try ClusterCompressor(type: variant.compressionType, clusterByteCount: cluster)
    var clusters: [CompressedCluster] = []
    var packed: [UInt8] = []
    for index in (range.lowerBound / UInt64(cluster))...((range.upperBound - 1) / UInt64(cluster)) {
      // Part of it random, so that sizes differ.
      let bytes = random.bytes(random.below(cluster * 3 / 4))
      let plain = bytes + [UInt8](repeating: UInt8(index & 0xff), count: cluster - bytes.count)
      var output = [UInt8](repeating: 0, count: cluster)
      guard let count = compress(plain, compressor, &output) else { continue }
      let offset = index * UInt64(cluster)
      clusters.append(CompressedCluster(guestOffset: offset, byteCount: count))
      packed += output[..<count]
      model.write(Array(plain.prefix(Int(min(UInt64(cluster), variant.byteCount - offset)))), at: offset)
    }
    let bytes = packed
    try await image.writeCompressed(clusters, from: bytes.span.bytes)
  }
}

/// Compresses one cluster; nil if it doesn't shrink.
func compress(_ plain: [UInt8], _ compressor: ClusterCompressor, _ output: inout [UInt8]) -> Int? {
  var span = output.mutableSpan
  var raw = span.mutableBytes
  return compressor.compress(plain.span.bytes, into: &raw)
}
