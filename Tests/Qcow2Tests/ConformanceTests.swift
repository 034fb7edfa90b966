import BlockCore
import BlockFilters
import BlockTesting
import Testing

@testable import Qcow2

/// The image as a device like any other.
@Suite struct ConformanceTests {
  static let sizes = [512, 4096, 65536]
  /// The suite's resizing also shrinks, and to odd bytes: ResizeTests has what an image can do instead.
  static let checks = BlockDeviceConformance.Check.allCases.filter { $0 != .resizeNeverShowsOldBytes }
  static let resizingChecks: Set<BlockDeviceConformance.Check> = [.randomOperationsMatchTheModel]

  @Test(arguments: sizes, checks)
  func imageConforms(clusterByteCount: Int, check: BlockDeviceConformance.Check) async throws {
    try await Self.suite(clusterByteCount, check, device: MemoryDevice.Options()).run(check)
  }

  @Test(arguments: checks)
  func imageWithSubclustersConforms(check: BlockDeviceConformance.Check) async throws {
    try await Self.suite(16384, hasSubclusters: true, check, device: MemoryDevice.Options()).run(check)
  }

  /// Over a device that interleaves, never answers at once and wants 4 KiB blocks, as a file open for direct I/O.
  @Test(arguments: checks)
  func imageOverSlowAlignedDeviceConforms(check: BlockDeviceConformance.Check) async throws {
    var device = MemoryDevice.Options()
    device.limits.requestAlignment = 4096
    device.limits.maximumTransferByteCount = 64 << 10
    device.answersTryRead = false
    device.interleavingSeed = 7
    try await Self.suite(1024, check, device: device).run(check)
  }

  static func suite(
    _ clusterByteCount: Int, hasSubclusters: Bool = false, _ check: BlockDeviceConformance.Check,
    device: MemoryDevice.Options
  ) -> BlockDeviceConformance {
    var traits = BlockDeviceConformance.Traits()
    let resizes = !resizingChecks.contains(check)
    traits.resizes = resizes
    traits.byteCount += 512
    let make: BlockDeviceConformance.Make = { byteCount in
      let image = try await makeImage(
        .init(virtualByteCount: byteCount, clusterByteCount: clusterByteCount, hasSubclusters: hasSubclusters),
        device: device,
        cacheByteCount: 32 << 10
      ).image
      return resizes ? image : FaultyDevice(image, fault: Fault(atCall: 1, of: [.resize], .notSupported, .fromThenOn))
    }
    return BlockDeviceConformance(
      traits,
      makeReadOnly: { byteCount in
        let (file, image) = try await makeImage(.init(virtualByteCount: byteCount, clusterByteCount: clusterByteCount))
        try await image.close()
        return try await openImage(MemoryDevice(file.image, options: device), isReadOnly: true)
      },
      reopen: { closed in
        guard let below = (closed as? Qcow2Image)?.file.device,
          let file = ((below as? AlignedAccess)?.next ?? below) as? MemoryDevice
        else { return closed }
        return try await openImage(MemoryDevice(file.image, options: device))
      },
      make: make)
  }
}
