import Engine
import EventLoops
import Failures
import Foundation
import Glibc
import Model
import ModelTesting
import Testing

/// Nothing outside the allowed folders is opened, whatever a request or an image names.
struct PathTests {
  private func inspect(_ test: TestEngine, _ path: String, _ format: DiskFormat) async -> ProblemCode? {
    await code { _ = try await test.engine.inspect(ImageLocation(source: .file(path: path), format: format)) }
  }

  @Test func imagesOutsideTheFoldersAreRefused() async throws {
    try await withEngine { test in
      let outside = test.root + "/secret.raw"
      try SampleImage.raw(at: outside, byteCount: 65536, seed: 1)
      try Tool.run("ln", "-s", outside, test.images + "/absolute.raw")
      try Tool.run("ln", "-s", "../secret.raw", test.images + "/relative.raw")
      try Tool.run("ln", "-s", "..", test.images + "/up")
      try SampleImage.raw(at: test.images + "/inside.raw", byteCount: 65536, seed: 1)
      try Tool.run("ln", "-s", "inside.raw", test.images + "/link.raw")
      #expect(await inspect(test, outside, .raw) == .pathOutsideFolders)
      #expect(await inspect(test, test.images + "/../secret.raw", .raw) == .pathOutsideFolders)
      #expect(await inspect(test, test.images + "/absolute.raw", .raw) == .pathOutsideFolders)
      #expect(await inspect(test, test.images + "/relative.raw", .raw) == .pathOutsideFolders)
      #expect(await inspect(test, test.images + "/up/secret.raw", .raw) == .pathOutsideFolders)
      #expect(await inspect(test, test.images + "x/secret.raw", .raw) == .pathOutsideFolders)
      #expect(await inspect(test, "/../" + outside, .raw) == .pathOutsideFolders)
      #expect(await inspect(test, "inside.raw", .raw) == .invalidField)
      #expect(await inspect(test, test.images + "/none.raw", .raw) == .sourceNotFound)
      #expect(await inspect(test, test.images, .raw) == .sourceNotAFile)
      #expect(await inspect(test, test.images + "/link.raw", .raw) == nil)
      try Tool.run("mkfifo", test.images + "/pipe")
      #expect(await inspect(test, test.images + "/pipe", .raw) == .sourceNotAFile)
      let device = ImageLocation(source: .device(path: "/dev/null"), format: .raw)
      #expect(await code { _ = try await test.engine.inspect(device) } == .sourceNotAFile)
    }
  }

  /// `site/current` leads to `pool/v2`, so `site/current/..` is `pool`.
  @Test func dotDotIsTheFolderAboveTheOneThatALinkLeadsTo() async throws {
    try await withEngine { test in
      for folder in ["pool/v2", "site"] { try Tool.run("mkdir", "-p", test.images + "/" + folder) }
      try Tool.run("ln", "-s", "../pool/v2", test.images + "/site/current")
      try SampleImage.raw(at: test.images + "/pool/base.raw", byteCount: 1 << 20, seed: 1)
      try SampleImage.raw(at: test.images + "/site/base.raw", byteCount: 1 << 20, seed: 2)
      try Tool.run(
        "qemu-img", "create", "-q", "-f", "qcow2", "-b", "../base.raw", "-F", "raw", test.images + "/pool/v2/vm.qcow2")
      let record = test.record("vm", test.images + "/site/current/vm.qcow2", .qcow2)
      let made = try await test.backUp(record)
      let target = test.images + "/site/current/../back.raw"
      #expect(try await test.engine.resolveTarget(target) == test.images + "/pool/back.raw")
      try await test.restore(made.place, to: target, .raw)
      #expect(!FileManager.default.fileExists(atPath: test.images + "/site/back.raw"))
      #expect(
        try SampleImage.bytes(test.images + "/pool/back.raw") == SampleImage.bytes(test.images + "/pool/base.raw"))
      try Tool.run("rm", test.images + "/pool/base.raw")
      #expect(await inspect(test, record.source.place, .qcow2) == .sourceNotFound)
    }
  }

  @Test func linksThatStayInsideAreFollowedAbsoluteOnesToo() async throws {
    try await withEngine { test in
      for folder in ["datastores/1", "datastores/0/79"] { try Tool.run("mkdir", "-p", test.images + "/" + folder) }
      let file = test.images + "/datastores/1/abc"
      try SampleImage.raw(at: file, byteCount: 65536, seed: 1)
      let link = test.images + "/datastores/0/79/disk.0"
      try Tool.run("ln", "-s", file, link)
      #expect(await inspect(test, link, .raw) == nil)
      // Through a path to the folder that isn't the configured one.
      try Tool.run("ln", "-s", test.images, test.root + "/elsewhere")
      #expect(await inspect(test, test.root + "/elsewhere/datastores/1/abc", .raw) == nil)
      let sources = [file, link, test.root].map { ImageSource.file(path: $0) } + [.nbd(uri: "nbd://x")]
      let identities = try await test.engine.identities(of: sources)
      #expect(identities[0] != nil && identities[0] == identities[1] && identities[0] != identities[2])
      #expect(identities[3] == nil)
      try Tool.run("ln", "-s", "loop", test.images + "/loop")
      #expect(await inspect(test, test.images + "/loop", .raw) == .sourceNotFound)
    }
  }

  @Test func targetsThatCantBeAreRefusedBeforeAnythingIsWritten() async throws {
    try await withEngine { test in
      try SampleImage.raw(at: test.images + "/vm.raw", byteCount: 65536, seed: 1)
      try Tool.run("ln", "-s", "nowhere", test.images + "/dangling")
      let long = String(repeating: "n", count: 256)
      let cases: [(String, ProblemCode?)] = [
        ("none/back.raw", .sourceNotFound), ("dangling", .targetExists), ("dangling/back.raw", .sourceNotFound),
        ("vm.raw", .targetExists), ("vm.raw/back.raw", .sourceNotFound), (long, .invalidField),
        (long + "/back.raw", .invalidField), ("deep/", .invalidField), ("..", .invalidField),
        ("../back.raw", .pathOutsideFolders), ("back.raw", nil),
      ]
      for (name, expected) in cases {
        let found = await code { _ = try await test.engine.resolveTarget(test.images + "/" + name) }
        #expect(found == expected, "\(name)")
      }
      #expect(await inspect(test, test.images + "/" + long, .raw) == .invalidField)
      for code in [EACCES, EPERM] {
        let refusal = DomainError(SystemError(code), of: "vm.raw")
        #expect(refusal.code == .permissionDenied && refusal.remedy != nil)
      }
    }
  }

  @Test func dataAndBackingFilesMayBeListedDevices() async throws {
    guard geteuid() == 0 else {
      return print("dataAndBackingFilesMayBeListedDevices: NOT TESTED, needs root for a loop device")
    }
    let root = NSTemporaryDirectory() + "cobweb-engine-\(ULID())"
    defer { try? FileManager.default.removeItem(atPath: root) }
    try Tool.run("mkdir", "-p", root + "/images", root + "/backup")
    try SampleImage.raw(at: root + "/disk", byteCount: 1 << 20, seed: 1)
    guard let device = try? Tool.run("losetup", "--find", "--show", root + "/disk").split(separator: "\n").first else {
      return print("dataAndBackingFilesMayBeListedDevices: NOT TESTED, no loop device to be had")
    }
    defer { _ = try? Tool.run("losetup", "--detach", String(device)) }
    let image = root + "/images/vm.qcow2"
    try Tool.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=\(device),data_file_raw=on", image, "1M")
    try Tool.run("ln", "-s", String(device), root + "/images/link.raw")
    let over = root + "/images/over.qcow2"
    try Tool.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "link.raw", "-F", "raw", over, "1M")
    let unlisted = try await TestEngine(root: root)
    for path in [image, over] { #expect(await inspect(unlisted, path, .qcow2) == .pathOutsideFolders, "\(path)") }
    await unlisted.engine.shutDown()
    try await withEngine(root: root, devices: [String(device)]) { test in
      for path in [image, over] {
        #expect(await inspect(test, path, .qcow2) == nil, "\(path)")
        let made = try await test.backUp(test.record("vm", path, .qcow2))
        #expect(try await test.verify(made.place).findings == [])
        #expect(made.receipt.dirtyBytes > 0)
      }
    }
  }

  @Test func backingFilesMustBePlainStatedAndInside() async throws {
    try await withEngine { test in
      let outside = test.root + "/secret.raw"
      try SampleImage.raw(at: outside, byteCount: 1 << 20, seed: 1)
      try Tool.run("ln", "-s", outside, test.images + "/link.raw")
      try SampleImage.raw(at: test.images + "/base.raw", byteCount: 1 << 20, seed: 1)
      let cases: [(name: String, backing: String, format: String, code: ProblemCode?)] = [
        ("outside", outside, "raw", .pathOutsideFolders),
        ("up", "../secret.raw", "raw", .pathOutsideFolders),
        ("link", "link.raw", "raw", .pathOutsideFolders),
        ("json", "json:{\"driver\":\"raw\",\"file.filename\":\"\(outside)\"}", "raw", .backingRefused),
        ("nbd", "nbd://127.0.0.1:1/x", "raw", .backingRefused),
        ("file", "file:base.raw", "raw", .backingRefused),
        ("vmdk", "base.raw", "vmdk", .formatUnsupported),
        ("missing", "none.raw", "raw", .sourceNotFound),
        ("good", "base.raw", "raw", nil),
      ]
      for item in cases {
        let path = test.images + "/\(item.name).qcow2"
        try Tool.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", item.backing, "-F", item.format, path, "1M")
        #expect(await inspect(test, path, .qcow2) == item.code, "\(item.name)")
        let record = test.record("vm", path, .qcow2)
        #expect(await code { _ = try await test.backUp(record) } == item.code, "\(item.name)")
        let location = ImageLocation(source: .file(path: path), format: .qcow2)
        let extents = await code { _ = try await test.engine.extents(of: location, offset: 0, length: nil, limit: 10) }
        #expect(extents == item.code, "\(item.name)")
      }
    }
  }

  @Test func backingFileWithoutAFormatIsRefused() async throws {
    try await withEngine { test in
      let path = test.images + "/top.qcow2"
      try SampleImage.raw(at: test.images + "/base.raw", byteCount: 1 << 20, seed: 1)
      try Tool.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", path)
      // QEMU itself writes no such image any more: the header extension's type becomes one that nobody knows.
      let header = try SampleImage.bytes(path)
      let place = try #require(header.range(of: Data([0xE2, 0x79, 0x2A, 0xCA])))
      try SampleImage.damage(path, at: UInt64(place.lowerBound))
      #expect(await inspect(test, path, .qcow2) == .backingRefused)
      #expect(await code { _ = try await test.backUp(test.record("vm", path, .qcow2)) } == .backingRefused)
    }
  }

  @Test func loopOfBackingFilesIsRefused() async throws {
    try await withEngine { test in
      let (one, two) = (test.images + "/one.qcow2", test.images + "/two.qcow2")
      try Tool.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "two.qcow2", "-F", "qcow2", one, "1M")
      try Tool.run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", "one.qcow2", "-F", "qcow2", two, "1M")
      #expect(await inspect(test, one, .qcow2) == .backingRefused)
      #expect(await code { _ = try await test.backUp(test.record("vm", one, .qcow2)) } == .backingRefused)
    }
  }

  @Test func restoreTargetsStayInsideAndReplaceNothing() async throws {
    try await withEngine { test in
      let source = test.images + "/vm.raw"
      try SampleImage.raw(at: source, byteCount: 1 << 20, seed: 1)
      let made = try await test.backUp(test.record("vm", source, .raw))
      func restore(_ path: String) async -> ProblemCode? {
        await code { try await test.restore(made.place, to: path, .raw) }
      }
      #expect(await restore(test.root + "/back.raw") == .pathOutsideFolders)
      #expect(await restore(test.repositoryPath + "/back.raw") == .pathOutsideFolders)
      #expect(await restore(test.images + "/no/back.raw") == .sourceNotFound)
      #expect(await restore(source) == .targetExists)
      try Tool.run("ln", "-s", "nowhere", test.images + "/dangling.raw")
      #expect(await restore(test.images + "/dangling.raw") == .targetExists)
      try SampleImage.raw(at: test.images + "/small.raw", byteCount: 65536, seed: 1)
      let small = ImageLocation(source: .file(path: test.images + "/small.raw"), format: .raw)
      let mismatch = await code {
        _ = try await test.engine.restore(
          RestoreOrder(backup: made.place, target: .image(small)), control: RecordingJobControl())
      }
      #expect(mismatch == .targetMismatch)
      #expect(TestEngine.files(beneath: test.images).allSatisfy { !$0.hasSuffix(".part") })
    }
  }

  @Test func wrongFormatAndUnsupportedFeaturesAreNamed() async throws {
    try await withEngine { test in
      let raw = test.images + "/vm.raw"
      try SampleImage.raw(at: raw, byteCount: 1 << 20, seed: 1)
      #expect(await inspect(test, raw, .qcow2) == .formatMismatch)
      #expect(await code { _ = try await test.backUp(test.record("vm", raw, .qcow2)) } == .formatMismatch)
      let encrypted = test.images + "/encrypted.qcow2"
      try Tool.run(
        "qemu-img", "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x", "-o",
        "encrypt.format=aes,encrypt.key-secret=s", encrypted, "1M")
      #expect(await code { _ = try await test.backUp(test.record("vm", encrypted, .qcow2)) } == .formatUnsupported)
      #expect(await inspect(test, encrypted, .qcow2) == .formatUnsupported)
      // QEMU can't make LUKS images everywhere; the method is the header's byte 35 (qcow2.txt, "crypt_method").
      try Tool.run("sh", "-c", "printf '\\2' | dd of=\(encrypted) bs=1 seek=35 conv=notrunc status=none")
      let refusal = await #expect(throws: DomainError.self) {
        try await test.engine.inspect(ImageLocation(source: .file(path: encrypted), format: .qcow2))
      }
      #expect(refusal?.code == .formatUnsupported && refusal?.detail.contains("LUKS") == true)
      let extended = test.images + "/extended.qcow2"
      try Tool.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "extended_l2=on", extended, "1M")
      let image = try await test.engine.inspect(ImageLocation(source: .file(path: extended), format: .qcow2))
      #expect(image.features.contains { $0.contains("extended") }, "\(image.features)")
      let file = ImageSource.file(path: extended)
      #expect(try await test.engine.suggestFormat(of: file).format == .qcow2)
      #expect(try await test.engine.suggestFormat(of: .file(path: raw)).format == .raw)
      #expect(await code { _ = try await test.engine.suggestFormat(of: .file(path: test.root)) } == .pathOutsideFolders)
    }
  }

  @Test func repositoriesLieBeneathTheirFolders() async throws {
    try await withEngine { test in
      func open(_ path: String) async -> ProblemCode? {
        await code { _ = try await test.engine.openRepository(at: path, id: RepositoryID()) }
      }
      #expect(await open(test.root + "/elsewhere") == .pathOutsideFolders)
      #expect(await open(test.images + "/repository") == .pathOutsideFolders)
      try Tool.run("ln", "-s", test.root, test.root + "/backup/link")
      #expect(await open(test.root + "/backup/link/new") == .pathOutsideFolders)
      #expect(await open(test.root + "/backup/deep/down") == nil)
    }
  }

  /// What the host lacks isn't the disk's fault, and nothing is in the kernel's log about it.
  @Test(arguments: [
    (EROFS, ProblemCode.permissionDenied, "mount it"), (EMFILE, .ioError, "limit of open files"),
    (ENFILE, .ioError, "limit of open files"), (ENOMEM, .ioError, "memory"), (EIO, .ioError, "kernel's log"),
  ])
  func failureOfTheHostHasItsOwnRemedy(_ code: Int32, _ problem: ProblemCode, _ remedy: String) {
    let error = DomainError(SystemError(code), of: "/images/vm1.raw")
    #expect(error.code == problem && error.detail.hasPrefix("/images/vm1.raw"))
    #expect(error.remedy?.contains(remedy) == true, "\(String(describing: error.remedy))")
  }
}
