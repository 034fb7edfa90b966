import BlockTesting
import EventLoops
import Foundation
import Model
import ModelTesting
import Testing

/// Backup → verify → restore, with images that qemu-img made and with qemu-img as the judge.
struct RoundTripTests {
  static let size: UInt64 = 5 << 20

  @Test(arguments: TestEngine.backends)
  func sparseRawImageComesBackAsItWas(_ backend: IOBackend) async throws {
    try await withEngine(backend: backend) { test in
      #expect(test.engine.ioBackend == backend.rawValue)
      let source = test.images + "/vm.raw"
      try SampleImage.raw(at: source, byteCount: Self.size, seed: 1)
      for compression in Compression.allCases {
        let made = try await test.backUp(test.record("vm", source, .raw), compression)
        #expect(made.receipt.virtualSize == Self.size)
        #expect(made.receipt.dirtyBytes > 0 && made.receipt.dirtyBytes < Self.size)
        #expect(made.receipt.storedSize > 0)
        try await checkStored(made, source, "raw", test)
        for format in DiskFormat.allCases {
          let target = test.images + "/back-\(compression).\(format)"
          let report = try await test.restore(made.place, to: target, format)
          let written = try SampleImage.dataByteCount(source, blockByteCount: format == .raw ? 4096 : 65536)
          #expect(report == RestoreReport(virtualSize: Self.size, writtenBytes: written))
          try Tool.judge("compare", "-f", "raw", "-F", format.rawValue, source, target)
          if format == .qcow2 { try Tool.judge("check", "-f", "qcow2", target) }
        }
        let back = test.images + "/back-\(compression).raw"
        #expect(try SampleImage.bytes(source) == SampleImage.bytes(back))
      }
      #expect(TestEngine.files(beneath: test.images).allSatisfy { !$0.hasSuffix(".part") })
    }
  }

  /// What is stored verifies, passes qemu-img check, and is the source's bytes to qemu-img alone.
  private func checkStored(
    _ made: TestEngine.Made, _ source: String, _ format: String, _ test: TestEngine
  ) async throws {
    for level in VerifyLevel.allCases {
      let report = try await test.verify(made.place, level)
      #expect(report.findings == [], "\(level)")
      #expect(report.verifiedBytes == (level == .checksum ? made.receipt.virtualSize : 0))
    }
    try Tool.judge("check", "-f", "qcow2", made.dataPath)
    let plain = test.root + "/plain.raw"
    try Tool.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", made.dataPath, plain)
    try Tool.judge("compare", "-f", format, "-F", "raw", source, plain)
  }

  struct Variant: CustomTestStringConvertible, Sendable {
    var options: String
    var compressed = false
    var testDescription: String { options + (compressed ? ", compressed" : "") }
  }

  static let variants = [
    Variant(options: "compat=0.10,cluster_size=65536"), Variant(options: "compat=1.1,cluster_size=512"),
    Variant(options: "compat=1.1,cluster_size=2M,refcount_bits=1"),
    Variant(options: "compat=1.1,cluster_size=4096", compressed: true),
    Variant(options: "compat=1.1,compression_type=zstd", compressed: true),
    Variant(options: "compat=0.10,cluster_size=16384", compressed: true),
  ]

  @Test(.eachToolVersion, arguments: variants)
  func qcow2ImageComesBackAsItWas(_ variant: Variant) async throws {
    try await withEngine { test in
      let raw = test.root + "/source.raw"
      let source = test.images + "/vm.qcow2"
      try SampleImage.raw(at: raw, byteCount: 3 << 20, seed: 2)
      if variant.compressed {
        try Tool.run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", variant.options, raw, source)
      } else {
        try Tool.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", variant.options, raw, source)
      }
      let made = try await test.backUp(test.record("vm", source, .qcow2))
      try await checkStored(made, source, "qcow2", test)
      let target = test.images + "/back.raw"
      try await test.restore(made.place, to: target, .raw)
      #expect(try SampleImage.bytes(raw) == SampleImage.bytes(target))
    }
  }

  @Test(.eachToolVersion) func chainOfBackingFilesIsBackedUpAsTheGuestSeesIt() async throws {
    try await withEngine { test in
      let folder = test.images + "/chain"
      try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
      try SampleImage.raw(at: folder + "/base.raw", byteCount: 3 << 20, seed: 3)
      try Tool.run(
        "qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", folder + "/middle.qcow2", "4M")
      try Tool.run(
        "qemu-io", "-f", "qcow2", "-c", "write -P 7 100k 300k", "-c", "write -z 1M 128k", folder + "/middle.qcow2")
      try Tool.run(
        "qemu-img", "create", "-q", "-f", "qcow2", "-b", "chain/middle.qcow2", "-F", "qcow2", test.images + "/top.qcow2"
      )
      try Tool.run("qemu-io", "-f", "qcow2", "-c", "write -P 9 2M 70k", test.images + "/top.qcow2")
      let source = test.images + "/top.qcow2"
      let inspection = try await test.engine.inspect(ImageLocation(source: .file(path: source), format: .qcow2))
      #expect(inspection.backingChain.map(\.format) == [.qcow2, .raw])
      #expect(inspection.backingChain.map(\.virtualSize) == [4 << 20, 3 << 20])
      let made = try await test.backUp(test.record("vm", source, .qcow2), .none)
      try await checkStored(made, source, "qcow2", test)
      #expect(try Tool.run("qemu-img", "info", made.dataPath).contains("backing file") == false)
    }
  }

  @Test(arguments: [0, 1, 511, 65535, 65537, 1_000_001] as [UInt64])
  func oddSizesComeBackToTheByte(_ byteCount: UInt64) async throws {
    try await withEngine { test in
      let source = test.images + "/odd.raw"
      if byteCount == 0 {
        try Data().write(to: URL(fileURLWithPath: source))
      } else {
        try SampleImage.raw(at: source, byteCount: byteCount, seed: byteCount)
      }
      for compression in Compression.allCases {
        let made = try await test.backUp(test.record("odd", source, .raw), compression)
        #expect(made.receipt.virtualSize == byteCount)
        #expect(try await test.verify(made.place).findings == [])
        let target = test.images + "/\(compression).raw"
        try await test.restore(made.place, to: target, .raw)
        #expect(try SampleImage.bytes(source) == SampleImage.bytes(target))
        try await test.restore(made.place, to: test.images + "/\(compression).qcow2", .qcow2)
        try Tool.judge("check", "-f", "qcow2", test.images + "/\(compression).qcow2")
      }
    }
  }

  @Test func terabyteOfHolesTakesNoTimeAndNoSpace() async throws {
    try await withEngine { test in
      let source = test.images + "/huge.raw"
      try Tool.run("truncate", "-s", "1T", source)
      try Tool.run("qemu-io", "-f", "raw", "-c", "write -P 5 900G 64k", source)
      let made = try await test.backUp(test.record("huge", source, .raw))
      #expect(made.receipt.dirtyBytes == 65536)
      #expect(made.receipt.storedSize < 32 << 20)
      let target = test.images + "/huge-back.raw"
      try await test.restore(made.place, to: target, .raw)
      #expect(try SampleImage.byteCount(target) == 1 << 40)
      let allocated = try Tool.run("stat", "-c", "%b", target).trimmingCharacters(in: .whitespacesAndNewlines)
      #expect(try #require(Int(allocated)) * 512 < 1 << 20)
      #expect(try Tool.run("qemu-io", "-f", "raw", "-c", "read -P 5 900G 64k", target).contains("Pattern") == false)
    }
  }

  @Test(arguments: TestEngine.backends)
  func restoreOverAnImageLeavesNothingOfWhatItHeld(_ backend: IOBackend) async throws {
    try await withEngine(backend: backend) { test in
      let source = test.images + "/vm.raw"
      try SampleImage.raw(at: source, byteCount: Self.size, seed: 4)
      let made = try await test.backUp(test.record("vm", source, .raw))
      for format in DiskFormat.allCases {
        let target = test.images + "/other.\(format)"
        let junk = test.root + "/junk.raw"
        try SampleImage.raw(at: junk, byteCount: Self.size, seed: 5)
        try Tool.run("qemu-img", "convert", "-f", "raw", "-O", format.rawValue, junk, target)
        let location = ImageLocation(source: .file(path: target), format: format)
        let control = RecordingJobControl()
        let report = try await test.engine.restore(
          RestoreOrder(backup: made.place, target: .image(location)), control: control)
        #expect(control.overwrites == 1)
        let blockByteCount = format == .raw ? 4096 : 65536
        #expect(try report.writtenBytes == SampleImage.dataByteCount(source, blockByteCount: blockByteCount))
        try Tool.judge("compare", "-f", "raw", "-F", format.rawValue, source, target)
        if format == .qcow2 { try Tool.judge("check", "-f", "qcow2", target) }
      }
    }
  }

  /// 4 KiB of data at the start of each 64 KiB: what is stored is read by grains, what is restored is as thin as the
  /// source was.
  @Test func zeroesSmallerThanAGrainAreRestoredAsHoles() async throws {
    try await withEngine { test in
      let source = test.images + "/thin.raw"
      try Tool.run("truncate", "-s", "16M", source)
      let writes = (0..<256).flatMap { ["-c", "write -q -P \(1 + $0 % 255) \($0 * 65536) 4k"] }
      try Tool.run("qemu-io", ["-f", "raw"] + writes + [source])
      let made = try await test.backUp(test.record("thin", source, .raw))
      let fresh = test.images + "/back.raw"
      let report = try await test.restore(made.place, to: fresh, .raw)
      #expect(report.writtenBytes == 1 << 20)
      // Full of something else before.
      let full = test.images + "/full.raw"
      try SampleImage.raw(at: full, byteCount: 16 << 20, seed: 12)
      _ = try await test.engine.restore(
        RestoreOrder(backup: made.place, target: .image(ImageLocation(source: .file(path: full), format: .raw))),
        control: RecordingJobControl())
      for target in [fresh, full] {
        try Tool.run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, target)
        let blocks = try Tool.run("stat", "-c", "%b", target).trimmingCharacters(in: .whitespacesAndNewlines)
        #expect(try #require(Int(blocks)) * 512 < 2 << 20, "\(target)")
      }
    }
  }

  @Test func onlyWhatIsOverwrittenIsAnnounced() async throws {
    try await withEngine { test in
      let source = test.images + "/vm.raw"
      try SampleImage.raw(at: source, byteCount: Self.size, seed: 4)
      let made = try await test.backUp(test.record("vm", source, .raw))
      let control = RecordingJobControl()
      try await test.restore(made.place, to: test.images + "/new.raw", .raw, control: control)
      try SampleImage.raw(at: test.images + "/small.raw", byteCount: Self.size / 2, seed: 4)
      let small = ImageLocation(source: .file(path: test.images + "/small.raw"), format: .raw)
      let refused = await code {
        _ = try await test.engine.restore(RestoreOrder(backup: made.place, target: .image(small)), control: control)
      }
      #expect(refused == .targetMismatch && control.overwrites == 0)
    }
  }

  @Test func progressGrowsToTheWholeAndTheRootIsTheContents() async throws {
    try await withEngine { test in
      let raw = test.images + "/vm.raw"
      try SampleImage.raw(at: raw, byteCount: Self.size, seed: 6)
      let qcow2 = test.images + "/vm.qcow2"
      try Tool.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2)
      let control = RecordingJobControl()
      let one = try await test.backUp(test.record("a", raw, .raw), .none, control: control)
      let other = try await test.backUp(test.record("b", qcow2, .qcow2), .zstd)
      // The same bytes, stored otherwise.
      #expect(one.receipt.merkleRoot == other.receipt.merkleRoot)
      let done = control.reports.map(\.done)
      #expect(done == done.sorted())
      #expect(done.last == Self.size)
      #expect(control.reports.allSatisfy { $0.total == Self.size })
    }
  }
}
