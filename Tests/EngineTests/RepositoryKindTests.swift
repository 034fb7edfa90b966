import Engine
import EventLoops
import Foundation
import Logging
import Model
import ModelTesting
import Repositories
import RepositoryTesting
import Testing

/// The engine works with any kind of repository: it knows of no folders in it.
struct RepositoryKindTests {
  @Test func backupsAreMadeVerifiedRestoredAndDeletedInAnObjectStore() async throws {
    try await withEngine { test in
      let writer = ULID()
      let engine = try LocalEngine(
        EngineConfiguration(imageFolders: [test.images], repositoryFolders: [], writer: writer), group: test.group,
        repositories: ObjectRepositories(ObjectStore(), writer: writer), logger: quietLogger)
      let id = try await engine.openRepository(at: "a store", id: RepositoryID())
      let repository = RepositoryLocation(id: id, path: "a store")
      let source = test.images + "/vm.raw"
      try SampleImage.raw(at: source, byteCount: 3 << 20, seed: 71)
      for compression in [Compression.zstd, .none] {
        var order = test.order(test.record("vm", source, .raw), compression)
        order.repository = repository
        let control = RecordingJobControl()
        _ = try await engine.backUp(order, control: control)
        let place = StoredBackupLocation(
          repository: repository, image: order.image.id, chain: order.newChain, sequence: 0, backup: order.backup)
        #expect(try await engine.scan(repository).backups.map(\.id) == [order.backup])
        let report = try await engine.verify(VerifyOrder(backup: place, level: .checksum), control: control)
        #expect(report.findings == [] && report.verifiedBytes == 3 << 20)
        let target = test.images + "/back.\(compression)"
        _ = try await engine.restore(
          RestoreOrder(backup: place, target: .newFile(path: target, format: .raw)), control: control)
        #expect(try SampleImage.bytes(target) == SampleImage.bytes(source))
        try await engine.delete(place, control: control)
        let scan = try await engine.scan(repository)
        #expect(scan.backups == [] && scan.findings == [])
      }
      await engine.shutDown()
    }
  }
}
