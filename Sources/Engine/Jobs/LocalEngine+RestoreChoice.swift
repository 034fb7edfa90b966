import BlockCore
import BlockFilters
import EventLoops
import Failures
import Model
import Repositories

// What a restore over an image writes. Reading the image to find what differs pays where much of it is what the backup
// holds: a few grains tell.
extension LocalEngine {
  /// Grains of the backup that are compared with the image.
  private static let sampleCount: UInt64 = 64

  package func restoreChoice(_ order: RestoreOrder) async throws -> RestoreChoice {
    guard case .image(let location) = order.target else {
      return RestoreChoice(mode: .all, why: "it isn't an image that is restored over")
    }
    return try await onLoop(in: order.backup.repository.lane) { [self] loop in
      let stored = try await open(order.backup.repository, on: loop).stored(order.backup)
      let hashes = try await stored.openHashes(work: work)
      return try await closing([hashes.device]) {
        let use = ImageUse(.request("the plan of a restore"), needs: .read, isPassing: true)
        let image = try await opener(on: loop).open(location, for: use)
        return try await closing([image.device]) {
          try await choice(order.mode, of: hashes.reader, over: AlignedAccess.over(image.device), image.name)
        }
      }
    }
  }

  /// - Parameter target: takes any request, and is as long as what is restored.
  nonisolated(nonsending)
    func choice(
      _ mode: RestoreMode, of hashes: HashTreeReader, over target: any BlockDevice, _ name: String
    ) async throws -> RestoreChoice
  {
    switch mode {
    case .all: return RestoreChoice(mode: .all, why: "it was asked for")
    case .changed: return RestoreChoice(mode: .changed, why: "it was asked for")
    case .auto: break
    }
    let (sampled, alike) = try await telling(about: name) { try await samples(of: hashes, in: target) }
    let why = "\(alike) of \(sampled) grains that were compared are in the image already"
    return RestoreChoice(mode: sampled > 0 && alike * 2 >= sampled ? .changed : .all, why: why)
  }

  /// Grains of data, spread over the disk: how many were compared, and how many the target has.
  nonisolated(nonsending)
    private func samples(
      of hashes: HashTreeReader, in target: any BlockDevice
    ) async throws -> (sampled: Int, alike: Int)
  {
    let (tree, chunk) = (hashes.tree, Chunk())
    guard target.byteCount >= tree.byteCount else { return (0, 0) }
    var (sampled, alike) = (0, 0)
    let count = min(Self.sampleCount, tree.leafCount)
    for index in 0..<count {
      let part = tree.leafCount * index / count..<tree.leafCount * (index + 1) / count
      guard let leaf = try await hashes.firstDataLeaf(in: part) else { continue }
      try await chunk.begin(CopyStep(range: ByteRange(tree.grain(leaf)), action: .copy), from: target)
      await work.run { chunk.process(nil) }
      sampled += 1
      if chunk.damages.isEmpty, try await hashes.leaves(leaf..<leaf + 1) == chunk.leaves { alike += 1 }
    }
    return (sampled, alike)
  }
}
