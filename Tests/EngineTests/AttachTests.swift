import BlockCore
import BlockTesting
import Engine
import Foundation
import Locks
import Model
import ModelTesting
import Testing

/// Images that are held open read-write, beside QEMU and its locks.
struct AttachTests {
  /// The entry of the first guest cluster names the refcount table, so that a write to it latches the image.
  @Test func latchOfAnAttachedImageIsToldOnce() async throws {
    try await withEngine { test in
      let location = try test.makeQcow2()
      try Self.pointTheFirstClusterAtTheRefcountTable(location.source.place)
      let told = Lock<[ImageFailure]>([])
      test.engine.onImageFailure { failure in told.withLock { $0.append(failure) } }
      let image = ImageID()
      try await test.attach(location, as: image)
      let order = test.order("vm", .attachedImage(image), isReadOnly: false)
      try await test.engine.export(order)
      for _ in 0..<2 {
        try await Tool.runAside("qemu-io", ["-f", "raw", "-c", "write 0 4k", test.uri(order)], expecting: [1])
      }
      let failures = told.withLock { $0 }
      #expect(failures.count == 1)
      let failure = try #require(failures.first)
      #expect(failure.image == image && failure.operation == "write" && failure.errno == nil)
      #expect(failure.offset != nil && failure.detail.contains(location.source.place))
      try await test.engine.withdraw(order.export, .safe)
      await #expect(throws: DomainError.self) { try await test.engine.detach(image) }
    }
  }

  private static func pointTheFirstClusterAtTheRefcountTable(_ path: String) throws {
    let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
    defer { try? file.close() }
    func number(at offset: UInt64) throws -> UInt64 {
      try file.seek(toOffset: offset)
      return (try file.read(upToCount: 8) ?? Data()).reduce(0) { $0 << 8 | UInt64($1) }
    }
    let copied: UInt64 = 1 << 63
    let table = try number(at: 48)
    let l2 = try number(at: try number(at: 40)) & ~copied
    try file.seek(toOffset: l2)
    try file.write(contentsOf: withUnsafeBytes(of: (copied | table).bigEndian) { Data($0) })
  }

  @Test(.eachToolVersion) func attachedImageIsOursAloneUntilItIsDetached() async throws {
    try await withEngine { test in
      let location = try test.makeQcow2()
      let path = location.source.place
      let image = ImageID()
      #expect(try await test.attach(location, as: image).virtualSize == 4 << 20)
      // QEMU refuses it, ourselves too, but looking stays possible.
      let refusal = try await Tool.runAside("qemu-io", ["-f", "qcow2", "-c", "write 0 512", path], expecting: [1])
      #expect(refusal.contains("lock"), "\(refusal)")
      let locks = try await test.engine.inspect(location).locks
      #expect(locks.contains { $0.permission == "write" && $0.held && $0.unshared })
      #expect(await code { try await test.attach(location, as: image) } == .imageInUse)
      #expect(await code { try await test.attach(location, as: ImageID()) } == .imageInUse)
      #expect(await code { _ = try await test.backUp(test.record("vm", path, .qcow2)) } == .imageInUse)
      let check = CheckOrder(image: location, repairsLeaks: false)
      #expect(await code { _ = try await test.engine.check(check, control: RecordingJobControl()) } == .imageInUse)
      try await test.engine.detach(image)
      try await test.engine.detach(image)
      #expect(try await test.engine.inspect(location).locks.isEmpty)
      try Tool.run("qemu-io", "-f", "qcow2", "-c", "write -P 3 0 512", path)
      try Tool.judge("check", "-f", "qcow2", path)
      try await test.attach(location, as: image)
    }
  }

  @Test(.eachToolVersion) func locksOfOthersAreWaitedForAsLongAsToldAndNoLonger() async throws {
    try await withEngine { test in
      let location = try test.makeQcow2()
      let holder = try await PeerProcess("qemu-io", ["-f", "qcow2", location.source.place])
      try await eventually("QEMU has the image") {
        try await test.engine.inspect(location).locks.contains { $0.permission == "write" && $0.held }
      }
      let image = ImageID()
      #expect(await code { try await test.attach(location, as: image) } == .imageLocked)
      let start = ContinuousClock.now
      #expect(await code { try await test.attach(location, as: image, lockTimeout: 1) } == .imageLocked)
      #expect(ContinuousClock.now - start >= .seconds(1))
      await #expect(throws: CancellationError.self) {
        try await test.attach(
          location, as: image, lockTimeout: 60, control: RecordingJobControl(cancelAtCheckpoint: 3))
      }
      let control = RecordingJobControl()
      async let receipt = test.attach(location, as: image, lockTimeout: 60, control: control)
      try await eventually("it waits") { control.messages.contains { $0.message.contains("waiting") } }
      holder.stop()
      #expect(try await receipt.virtualSize == 4 << 20)
    }
  }

  @Test func cacheModeIsWhatWasAskedForOrWhatTheStorageCan() async throws {
    try await withEngine { test in
      let location = try test.makeQcow2()
      let odd = test.images + "/odd.raw"
      try SampleImage.raw(at: odd, byteCount: 100_001, seed: 1)
      let oddLocation = ImageLocation(source: .file(path: odd), format: .raw)
      let image = ImageID()
      #expect(try await test.attach(location, as: image, cache: .writeback).cache == .writeback)
      try await test.engine.detach(image)
      #expect(try await test.attach(oddLocation, as: image).cache == .writeback)
      try await test.engine.detach(image)
      #expect(await code { try await test.attach(oddLocation, as: image, cache: .direct) } == .invalidField)
      // A file system without O_DIRECT says so by both.
      let best = try await test.attach(location, as: image).cache
      try await test.engine.detach(image)
      let refusal = await code { try await test.attach(location, as: image, cache: .direct) }
      #expect(refusal == (best == .direct ? nil : .invalidField))
      #expect(try await test.engine.inspect(oddLocation).virtualSize == 100_001)
    }
  }

  @Test(.eachToolVersion) func freshImageOfQEMUIsUsedPastThePageCache() async throws {
    try await withEngine { test in
      let path = test.images + "/fresh.qcow2"
      // Its file ends amid a block: qemu-img pads nothing.
      try Tool.run("qemu-img", "create", "-q", "-f", "qcow2", path, "1G")
      try #require(try SampleImage.byteCount(path) % 4096 != 0)
      let raw = test.images + "/even.raw"
      try SampleImage.raw(at: raw, byteCount: 1 << 20, seed: 1)
      let image = ImageID()
      let possible = try await test.attach(
        ImageLocation(source: .file(path: raw), format: .raw), as: ImageID()
      ).cache
      #expect(
        try await test.attach(ImageLocation(source: .file(path: path), format: .qcow2), as: image).cache == possible)
      try await test.engine.detach(image)
      try Tool.judge("check", "-f", "qcow2", path)
    }
  }

  /// Images whose files end amid a block, by what makes them so.
  private enum Odd: CaseIterable {
    case fresh, compressed, overlay, dataFile, longerByOne, smallClusters, raw

    func make(_ test: TestEngine) throws -> ImageLocation {
      let path = test.images + "/vm.qcow2"
      let location = ImageLocation(source: .file(path: path), format: self == .raw ? .raw : .qcow2)
      let source = test.root + "/source.raw"
      try SampleImage.raw(at: source, byteCount: 3 << 20, seed: 7)
      switch self {
      case .fresh: try Tool.run("qemu-img", "create", "-q", "-f", "qcow2", path, "4M")
      case .compressed: try Tool.run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", source, path)
      case .overlay:
        try Tool.run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", source, test.images + "/base.qcow2")
        try Tool.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", path, "4M")
      case .dataFile:
        let options = "data_file=\(test.images)/vm.data,data_file_raw=on"
        try Tool.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "\((4 << 20) - 512)")
        // QEMU makes it whole clusters.
        try Tool.run("truncate", "-s", "\((4 << 20) - 512)", test.images + "/vm.data")
      case .longerByOne:
        try Tool.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", source, path)
        try Tool.run("truncate", "-s", "+1", path)
      case .smallClusters:
        try Tool.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=512", source, path)
        try Tool.run("truncate", "-s", "%4096", path)
        try Tool.run("truncate", "-s", "+511", path)
      case .raw: try SampleImage.raw(at: path, byteCount: (3 << 20) + 13, seed: 8)
      }
      return location
    }
  }

  /// Only the guest's first change may make a file longer.
  @Test(.eachToolVersion, arguments: Odd.allCases, [nil, CacheMode.writeback])
  private func attachingAndReadingLeaveTheFilesAsTheyAre(_ odd: Odd, cache: CacheMode?) async throws {
    try await withEngine { test in
      let location = try odd.make(test)
      let path = location.source.place
      // Of an image with a data file that one is odd: it has the disk's length.
      if odd != .dataFile { try #require(try SampleImage.byteCount(path) % 4096 != 0) }
      func contents() throws -> [Data] {
        try TestEngine.files(beneath: test.images).map { try SampleImage.bytes(test.images + "/" + $0) }
      }
      let (files, before) = (TestEngine.files(beneath: test.images), try contents())
      let (copy, format) = (test.root + "/copy.raw", location.format.rawValue)
      for isReadOnly in [true, false] {
        let image = ImageID()
        try await test.attach(location, as: image, cache: cache)
        let order = test.order("vm", .attachedImage(image), isReadOnly: isReadOnly)
        try await test.engine.export(order)
        if isReadOnly {
          try await Tool.runAside("nbdcopy", [test.uri(order), copy])
        } else {
          let writes = ["write -P 1 100 700", "write -P 2 1M 70k", "write -P 3 3145000 728", "flush"]
          let commands = writes.flatMap { ["-c", $0] }
          try await Tool.runAside("qemu-io", ["-f", "raw"] + commands + [test.uri(order)])
          try Tool.run("qemu-io", ["-f", "raw"] + commands + [copy])
        }
        try await test.engine.withdraw(order.export, .safe)
        try await test.engine.detach(image)
        if isReadOnly {
          #expect(TestEngine.files(beneath: test.images) == files)
          #expect(try contents() == before)
        }
        if location.format == .qcow2 { try Tool.judge("check", "-f", "qcow2", path) }
        try Tool.judge("compare", "-q", "-f", format, "-F", "raw", path, copy)
      }
      if odd == .dataFile { #expect(try SampleImage.byteCount(test.images + "/vm.data") == (4 << 20) - 512) }
      if odd == .raw { #expect(try SampleImage.byteCount(path) == (3 << 20) + 13) }
    }
  }

  @Test func imagesThatCantBeWrittenRightAreRefused() async throws {
    try await withEngine { test in
      let location = try test.makeQcow2()
      // One more than are recorded.
      for number in 0...64 { try Tool.run("qemu-img", "bitmap", "--add", location.source.place, "b\(number)") }
      let refusal = await #expect(throws: DomainError.self) { try await test.attach(location, as: ImageID()) }
      #expect(refusal?.code == .formatUnsupported && refusal?.detail.contains("bitmap") == true, "\(refusal as Any)")
      // Together they could take more memory than is taken for one image.
      let large = test.images + "/large.qcow2"
      try Tool.run("qemu-img", "create", "-q", "-f", "qcow2", large, "1T")
      for number in 0...4 { try Tool.run("qemu-img", "bitmap", "--add", "-g", "512", large, "b\(number)") }
      let location2 = ImageLocation(source: .file(path: large), format: .qcow2)
      let tooMuch = await #expect(throws: DomainError.self) { try await test.attach(location2, as: ImageID()) }
      #expect(tooMuch?.code == .formatUnsupported && tooMuch?.detail.contains("MiB") == true, "\(tooMuch as Any)")
      let remote = ImageLocation(source: .nbd(uri: "nbd://127.0.0.1:1/x"), format: .raw)
      #expect(await code { try await test.attach(remote, as: ImageID()) } == .sourceNotAFile)
      #expect(try await test.engine.inspect(location).locks.isEmpty)
    }
  }

  @Test(.eachToolVersion) func extentsOfAnAttachedImageAreTheLiveOnes() async throws {
    try await withEngine { test in
      let location = try test.makeQcow2()
      let image = ImageID()
      try await test.attach(location, as: image)
      let order = test.order("vm", .attachedImage(image), isReadOnly: false)
      try await test.engine.export(order)
      func extents() async throws -> ExtentPage {
        try await test.engine.extents(of: location, offset: 0, length: nil, limit: 1000)
      }
      let before = try await extents()
      #expect(try await extents() == before)
      #expect(before.items.last?.zero == true)
      // Not flushed: only the live device knows.
      try await Tool.runAside(
        "qemu-io", ["-f", "raw", "-t", "writeback", "-c", "write -P 5 3900k 64k", test.uri(order)])
      let after = try await extents()
      #expect(after.generation != before.generation)
      #expect(after.items.contains { $0.data && $0.offset <= 3900 << 10 && $0.offset + $0.length >= 3964 << 10 })
      #expect(try await extents().generation == after.generation)
    }
  }
}
