import BlockCore
import BlockTesting
import Foundation
import Testing

@Suite(.timeLimit(.minutes(1))) struct MemoryDeviceTests {
  /// The ways to set one up that differ in what the port promises.
  enum Variant: CaseIterable, Sendable {
    case plain, sectors, pages, interleaving, shortTransfers, slowZeroes, decliningTries, oddSize

    var options: MemoryDevice.Options {
      var options = MemoryDevice.Options()
      switch self {
      case .plain, .oddSize: break
      case .sectors: options.limits.requestAlignment = 512
      case .pages: options.limits = BlockLimits(requestAlignment: 4096, preferredByteCount: 16 << 10)
      case .interleaving: options.interleavingSeed = 7
      case .shortTransfers: options.limits.maximumTransferByteCount = 12 << 10
      case .slowZeroes: options.zeroesFast = false
      case .decliningTries: options.answersTryRead = false
      }
      return options
    }

    var suite: BlockDeviceConformance {
      var traits = BlockDeviceConformance.Traits()
      traits.byteCount = self == .oddSize ? 200_003 : 260 << 10
      traits.tellsZeroes = self != .slowZeroes
      let options = options
      var readOnly = options
      readOnly.isReadOnly = true
      let readOnlyOptions = readOnly
      return BlockDeviceConformance(
        traits,
        makeReadOnly: { MemoryDevice(byteCount: $0, options: readOnlyOptions) },
        reopen: { MemoryDevice(($0 as? MemoryDevice)?.image ?? SparseImage(byteCount: 0), options: options) },
        make: { MemoryDevice(byteCount: $0, options: options) })
    }
  }

  @Test(arguments: Variant.allCases, BlockDeviceConformance.Check.allCases)
  func conforms(variant: Variant, check: BlockDeviceConformance.Check) async throws {
    try await LoopActor().run { _ in try await variant.suite.run(check) }
  }

  @Test func statusTellsHolesZeroesAndData() async throws {
    let device = MemoryDevice(byteCount: 5 * 4096)
    try await device.writeBytes([1], at: 4096)
    try await device.writeZeroes(ByteRange(offset: 2 * 4096, length: 4096), options: [])
    let extents = try await device.wholeStatus(ByteRange(offset: 0, length: device.byteCount))
    #expect(extents.map(\.status) == [[.zero, .hole], [], .zero, [.zero, .hole]])
    #expect(extents.map(\.depth) == [0, 1, 1, 0])
    try await device.discard(ByteRange(offset: 0, length: device.byteCount))
    #expect(device.image.allocatedByteCount == 0)
  }

  @Test func hugeDeviceTakesNoMemory() async throws {
    let device = MemoryDevice(byteCount: 1 << 50)
    try await device.writeBytes([1, 2, 3], at: (1 << 50) - 3)
    try await device.writeZeroes(ByteRange(offset: 0, length: (1 << 50) - 1), options: .mayUnmap)
    #expect(try await device.readBytes(4, at: (1 << 50) - 4) == [0, 0, 0, 3])
    #expect(device.image.allocatedByteCount == 4096)
  }

  @Test func callsAreCounted() async throws {
    let device = MemoryDevice(byteCount: 4096)
    try await device.writeBytes([1], at: 0, options: .forceUnitAccess)
    _ = try await device.readAll()
    try await device.flush()
    #expect(device.calls[.write] == 1 && device.calls[.read] == 1 && device.calls[.flush] == 1)
    #expect(device.calls.forced == 1 && device.calls.tryReads == 0 && device.calls[.discard] == 0)
  }

  @Test func closeWaitsForRequestsInFlight() async throws {
    var options = MemoryDevice.Options()
    options.interleavingSeed = 3
    let device = MemoryDevice(byteCount: 1 << 20, options: options)
    let loop = LoopActor()
    try await withThrowingTaskGroup { group in
      for index in 0..<20 {
        group.addTask { try await loop.run { _ in try await device.writeBytes([1], at: UInt64(index) * 4096) } }
      }
      try await loop.run { _ in
        while device.calls[.write] < 20 { await Task.yield() }
        try await device.close()
        #expect(device.image.allocatedByteCount == 20 * 4096)
      }
      try await group.waitForAll()
    }
  }

  @Test func dumpedFileHasTheBytesAndTheHoles() async throws {
    let folder = FileManager.default.temporaryDirectory.appending(path: "cobweb-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let path = folder.appending(path: "image").path
    var random = SeededRandom(seed: 5)
    let device = MemoryDevice(byteCount: (8 << 20) + 77)
    try await device.writeBytes(random.bytes(10_000), at: 5000)
    try await device.writeBytes([9], at: device.byteCount - 1)
    try device.image.dump(to: path)
    let bytes = try await device.readAll()
    #expect(try Data(contentsOf: URL(filePath: path)) == Data(bytes))
    let loaded = MemoryDevice(try SparseImage(contentsOf: path))
    #expect(try await loaded.readAll() == bytes)
    #expect(loaded.image.allocatedByteCount == device.image.allocatedByteCount)
  }
}
