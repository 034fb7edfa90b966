import BlockCore
import BlockTesting
import Buffers
import Foundation
import Qcow2
import Repositories

/// A chain of qcow2 images in memory, and what each of its points reads as.
struct TestChain: Sendable {
  struct Layer: Sendable {
    let name: String
    let backingName: String?
    let byteCount: UInt64
    var file: SparseImage
    let model: ByteModel
  }

  /// From the full on.
  private(set) var layers: [Layer] = []
  private var random: SeededRandom

  init(seed: UInt64) { random = SeededRandom(seed: seed) }

  /// A layer of random shape over the ones before, with random changes.
  nonisolated(nonsending)
    mutating func addRandomLayer(changes: Int, largest: UInt64 = 3_000_000) async throws
  {
    let hasSubclusters = random.oneIn(3)
    let bits = hasSubclusters ? 14 + random.below(4) : [9, 12, 16, 21][random.below(4)]
    var byteCount = layers.last?.byteCount ?? largest / 512 * 512
    if !layers.isEmpty, random.oneIn(4) { byteCount = (1 + UInt64(random.below(Int(largest / 512)))) * 512 }
    let options = Qcow2Image.CreateOptions(
      virtualByteCount: byteCount, clusterByteCount: 1 << bits,
      compressionType: random.oneIn(2) ? .zstd : .zlib, hasSubclusters: hasSubclusters)
    try await addLayer(options) { image, model, random in
      for _ in 0..<changes { try await Self.changeAnywhere(image, &model, &random) }
    }
  }

  nonisolated(nonsending)
    mutating func addLayer(
      _ options: Qcow2Image.CreateOptions,
      _ change: nonisolated(nonsending) (Qcow2Image, inout ByteModel, inout SeededRandom) async throws -> Void
    ) async throws
  {
    var options = options
    let below = layers.last
    options.backing = below.map { .init(name: $0.name, format: "qcow2") }
    let device = MemoryDevice(byteCount: 0)
    try await Qcow2Image.create(on: device, options: options)
    var model = below?.model ?? ByteModel(byteCount: options.virtualByteCount)
    let plain = MemoryDevice(byteCount: model.bytes.isEmpty ? 0 : UInt64(model.bytes.count))
    try await plain.writeBytes(model.bytes, at: 0)
    model.resize(to: options.virtualByteCount)
    let image = try await Qcow2Image.open(
      device, options: .init(isReadOnly: false), backing: .device(plain), work: InlineWork(), pool: BufferPool())
    try await change(image, &model, &random)
    try await image.close()
    layers.append(
      Layer(
        name: "\(layers.count).qcow2", backingName: below?.name, byteCount: options.virtualByteCount,
        file: device.image, model: model))
  }

  nonisolated(nonsending)
    private static func changeAnywhere(
      _ image: Qcow2Image, _ model: inout ByteModel, _ random: inout SeededRandom
    ) async throws
  {
    let start = random.below(Int(image.byteCount))
    let count = min(1 + random.below(random.oneIn(3) ? 300_000 : 9_000), Int(image.byteCount) - start)
    let range = ByteRange(offset: UInt64(start), length: UInt64(count))
    switch random.below(4) {
    case 0:
      try await image.writeZeroes(range, options: random.oneIn(2) ? .mayUnmap : [])
      model.zero(range)
    case 1: try await compress(image, range, &model, &random)
    default:
      // Short noise, repeated.
      let noise = random.bytes(min(count, 997))
      let bytes = (0..<count).map { noise[$0 % noise.count] }
      try await image.writeBytes(bytes, at: range.offset)
      model.write(bytes, at: range.offset)
    }
  }

  /// Stores the cluster where the range begins compressed.
  nonisolated(nonsending)
    private static func compress(
      _ image: Qcow2Image, _ range: ByteRange, _ model: inout ByteModel, _ random: inout SeededRandom
    ) async throws
  {
    let cluster = image.clusterByteCount
    let offset = range.offset / UInt64(cluster) * UInt64(cluster)
    let plain = [UInt8](repeating: UInt8(1 + random.below(255)), count: cluster)
    let compressor = try ClusterCompressor(type: image.compressionType, clusterByteCount: cluster)
    var output = [UInt8](repeating: 0, count: cluster)
    var span = output.mutableSpan
    var raw = span.mutableBytes
    guard let count = compressor.compress(plain.span.bytes, into: &raw) else { return }
    try await image.writeCompressed(
      [CompressedCluster(guestOffset: offset, byteCount: count)], from: output.span.bytes.extracting(0..<count))
    model.write(Array(plain.prefix(Int(min(UInt64(cluster), image.byteCount - offset)))), at: offset)
  }

  // MARK: Opened

  /// The files of the chain, as the manifests would describe them, from the top down.
  /// - Parameter device: opens the file of a layer, counted from the full on.
  func files(upTo top: Int, _ device: @escaping @Sendable (Int) throws -> any BlockDevice) -> [ChainLayer] {
    (0...top).reversed().map { index in
      ChainLayer(
        name: "chain/\(layers[index].name)", byteCount: layers[index].byteCount, backingName: layers[index].backingName
      ) { try device(index) }
    }
  }

  func device(_ index: Int) -> any BlockDevice {
    var options = MemoryDevice.Options()
    options.isReadOnly = true
    return MemoryDevice(layers[index].file, options: options)
  }

  /// The same chain, its images stacked on each other.
  nonisolated(nonsending)
    func stacked(upTo top: Int, depth: Int = 0) async throws -> Qcow2Image
  {
    try await Qcow2Image.open(
      device(top), options: .init(depth: depth),
      backing: .resolve { reference in try await stacked(upTo: top - 1, depth: reference.depth) }, work: InlineWork(),
      pool: BufferPool())
  }

  /// Writes the files into a folder, as `qemu-img` reads them.
  func dump(to folder: String) throws {
    for layer in layers { try layer.file.dump(to: "\(folder)/\(layer.name)") }
  }
}
