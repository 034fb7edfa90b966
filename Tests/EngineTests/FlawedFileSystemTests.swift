import BlockCore
import Engine
import EventLoops
import Failures
import Foundation
import Glibc
import Model
import ModelTesting
import Repositories
import Testing

/// Repositories and restores on file systems that know neither flags of `renameat2` nor `fsync` of a folder, as network
/// and FUSE file systems are.
struct FlawedFileSystemTests {
  /// What hard links are answered with.
  @Test(arguments: [0, EPERM])
  func backupsAreMadeRestoredAndDeletedThere(_ refusalOfLinks: Int32) async throws {
    var calls = FolderCalls.kernel
    calls.renameExclusively = { _, _, _, _ in EINVAL }
    calls.synchronize = { _ in EINVAL }
    if refusalOfLinks != 0 { calls.link = { _, _, _, _ in refusalOfLinks } }
    let flawed = calls
    try await withEngine(openFiles: { LocalFolderFiles($0.making(flawed)) }) { test in
      let path = test.root + "/backup/deep/flawed"
      let repository = RepositoryLocation(
        id: try await test.engine.openRepository(at: path, id: RepositoryID()), path: path)
      let source = test.images + "/vm.raw"
      try SampleImage.raw(at: source, byteCount: 1 << 20, seed: 51)
      var order = test.order(test.record("vm", source, .raw))
      order.repository = repository
      let control = RecordingJobControl()
      _ = try await test.engine.backUp(order, control: control)
      let place = StoredBackupLocation(
        repository: repository, image: order.image.id, chain: order.newChain, sequence: 0, backup: order.backup)
      #expect(try await test.verify(place).findings == [])
      for format in [DiskFormat.raw, .qcow2] {
        let target = test.images + "/back.\(format)"
        try await test.restore(place, to: target, format)
        try Tool.run("qemu-img", "compare", "-f", "raw", "-F", format.rawValue, source, target)
        #expect(await code { try await test.restore(place, to: target, format) } == .targetExists)
      }
      let scan = try await test.engine.scan(repository)
      #expect(scan.findings == [] && scan.backups.map(\.id) == [order.backup])
      try await test.engine.delete(place, control: control)
      #expect(try await test.engine.recover(repository, liveJobs: []).quarantined == [])
      let left = TestEngine.files(beneath: path) + TestEngine.files(beneath: test.images)
      #expect(!left.contains { $0.hasSuffix(".part") || $0.hasSuffix(".qcow2") && $0.hasPrefix("images/") }, "\(left)")
    }
  }

  @Test func whatAFileSystemCantHoldIsSaid() {
    let long = DomainError(SystemError(EFBIG), of: "disk.raw")
    #expect(long.code == .storageFull && long.detail.contains("can't hold a file that long"))
    #expect(DomainError(any: BlockError(errno: EFBIG, .write), of: "disk.raw").detail == long.detail)
    let refused = DomainError(SystemError(EINVAL), of: "disk.raw")
    #expect(refused.code == .ioError && refused.detail.contains("doesn't support"))
    #expect(DomainError(SystemError(ENXIO), of: "disk.raw").code == .sourceNotAFile)
  }

  @Test(arguments: [EROFS, EACCES])
  func storageThatTakesNoWritesServesReaders(_ refusal: Int32) async throws {
    try await withEngine { test in
      let source = test.images + "/vm.raw"
      try SampleImage.raw(at: source, byteCount: 1 << 20, seed: 52)
      let made = try await test.backUp(test.record("vm", source, .raw))
      #expect(try await test.engine.access(to: test.repository) == .readWrite)
      var calls = FolderCalls.kernel
      calls.checkWritable = { _ in refusal }
      let flawed = calls
      let reader = try await TestEngine(root: test.root, writer: test.writer, repository: test.repository) {
        LocalFolderFiles($0.making(flawed))
      }
      #expect(try await reader.engine.access(to: test.repository) == .readOnly)
      #expect(try await reader.engine.recover(test.repository, liveJobs: []).access == .readOnly)
      #expect(await code { _ = try await reader.backUp(made.order.image) } == .repositoryReadOnly)
      #expect(
        await code { try await reader.engine.delete(made.place, control: RecordingJobControl()) }
          == .repositoryReadOnly)
      #expect(try await reader.verify(made.place).findings == [])
      #expect(try await reader.engine.scan(test.repository).backups.count == 1)
      await reader.engine.shutDown()
    }
  }
}
