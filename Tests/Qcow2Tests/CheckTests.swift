import BlockCore
import BlockTesting
import Foundation
import Testing

@testable import Qcow2

/// Our check finds in sound tables with wrong refcounts exactly what `qemu-img check` finds.
@Suite struct CheckTests {
  static let variants = [
    "compat=0.10,cluster_size=512", "compat=1.1,cluster_size=512,refcount_bits=64",
    "compat=1.1,cluster_size=4096,refcount_bits=1", "compat=1.1,cluster_size=4096,refcount_bits=4",
    "compat=1.1,cluster_size=65536", "compat=1.1,cluster_size=16384,extended_l2=on,refcount_bits=32",
    "compat=1.1,cluster_size=2M,refcount_bits=8",
  ]

  private static func make(_ options: String, _ path: String) throws {
    try Qemu.image("create", "-q", "-f", "qcow2", "-o", options, path, "8M")
    try Qemu.io(path, ["write -c -P 1 0 2M", "write -P 2 2300k 300k", "write -z 3M 1M", "write -P 3 7M 100k"])
    // Their counts have no room for a snapshot of packed clusters, or QEMU takes long.
    if ["refcount_bits=1", "refcount_bits=4", "2M"].contains(where: options.contains) { return }
    try Qemu.image("snapshot", "-c", "one", path)
    try Qemu.io(path, ["write -P 4 2400k 40k", "discard 64k 200k"])
  }

  @Test(arguments: variants)
  func countsAreThoseOfQemu(options: String) async throws {
    let folder = try TemporaryFolder()
    try Self.make(options, folder.file("sound"))
    try await LoopActor().run { _ in
      let sound = try SparseImage(contentsOf: folder.file("sound"))
      let clean = try await openImage(MemoryDevice(sound), isReadOnly: true).check()
      #expect(clean.isClean, "\(clean)")
      for seed in 0..<UInt64(TestEffort.rounds(5)) {
        var random = SeededRandom(seed: seed)
        let device = MemoryDevice(sound)
        let image = try await openImage(device)
        for _ in 0...random.below(6) {
          let cluster = 1 + UInt64(random.below(Int(image.refcounts.usedEnd) - 1))
          let count = min(random.oneIn(4) ? .max : UInt64(random.below(4)), image.refcounts.width.maximum, 60_000)
          try await image.refcounts.set(cluster, to: count)
        }
        try await image.map.settle()
        let report = try await image.check()
        try device.image.dump(to: folder.file("changed"))
        let verdict = try Qemu.check(folder.file("changed"))
        #expect(
          report.corruptionCount == verdict.corruptions && report.leakCount == verdict.leaks,
          "\(random): \(report), QEMU: \(verdict)")
        #expect(report.isClean == report.findings.isEmpty)
        // The repair of leaks never makes it worse, and leaves what isn't a leak to the report.
        let left = try? await image.repairLeaks()
        try device.image.dump(to: folder.file("changed"))
        let after = try Qemu.check(folder.file("changed"))
        #expect(after.corruptions <= verdict.corruptions && after.leaks <= verdict.leaks, "\(random): \(after)")
        if verdict.corruptions == 0 { #expect(left?.isClean == true && after == .clean, "\(random): \(after)") }
      }
    }
  }
}
