import BlockCore
import BlockTesting
import Testing

/// The suite itself: devices that are right pass it, and each known mistake fails it.
@Suite(.timeLimit(.minutes(1))) struct ConformanceSuiteTests {
  @Test(arguments: DefectiveDevice.Defect.allCases)
  func everyDefectIsNoticed(defect: DefectiveDevice.Defect) async {
    var failures: [BlockDeviceConformance.Check] = []
    let suite = suite(defect)
    for check in BlockDeviceConformance.Check.allCases {
      do {
        try await LoopActor().run { _ in try await suite.run(check) }
      } catch {
        failures.append(check)
      }
    }
    #expect(failures.contains(defect.check), "\(defect) fails only \(failures)")
  }

  private func suite(_ defect: DefectiveDevice.Defect) -> BlockDeviceConformance {
    var traits = BlockDeviceConformance.Traits()
    traits.byteCount = 64 << 10
    return BlockDeviceConformance(
      traits,
      makeReadOnly: { byteCount in
        var options = MemoryDevice.Options()
        options.isReadOnly = defect != .staysWritable
        return DefectiveDevice(defect, MemoryDevice(byteCount: byteCount, options: options))
      },
      reopen: { closed in Self.reopened(closed, defect) },
      make: { byteCount in
        var options = MemoryDevice.Options()
        if defect == .interleavesReadModifyWrite { options.interleavingSeed = 1 }
        let device = MemoryDevice(byteCount: byteCount, options: options)
        return defect == .staysWritable ? device : DefectiveDevice(defect, device)
      })
  }

  private static func reopened(_ closed: any BlockDevice, _ defect: DefectiveDevice.Defect) -> any BlockDevice {
    guard let closed = closed as? DefectiveDevice else {
      // Wrong only when read-only, so it was made as a plain device.
      return MemoryDevice((closed as? MemoryDevice)?.image ?? SparseImage(byteCount: 0))
    }
    return DefectiveDevice(defect, MemoryDevice(closed.imageAfterClose))
  }
}
