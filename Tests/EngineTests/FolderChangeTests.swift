import Engine
import EventLoops
import Foundation
import Locks
import Model
import ModelTesting
import Testing

/// Does something at the job's first checkpoint, once its files are open.
private final class ActingControl: JobControl {
  let job = JobID()
  let speedLimit: UInt64 = 0
  private let action: Lock<(@Sendable () throws -> Void)?>

  init(_ action: @escaping @Sendable () throws -> Void) { self.action = Lock(action) }

  func report(done: UInt64, total: UInt64) {}
  func log(_ level: JobLogEntry.Level, _ message: String) {}
  func willOverwrite() async throws {}
  func checkpoint() async throws {
    let action = action.withLock { action in
      defer { action = nil }
      return action
    }
    try action?()
  }
}

/// Folders that are mounted, moved or replaced while the server runs.
struct FolderChangeTests {
  private static func move(_ from: String, _ to: String) throws {
    try FileManager.default.moveItem(atPath: from, toPath: to)
  }

  private static func makeFolder(_ path: String) throws {
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }

  @Test func foldersThatWereReplacedSinceTheStartAreTheNewOnes() async throws {
    try await withEngine { test in
      let path = test.images + "/vm.raw"
      try SampleImage.raw(at: path, byteCount: 1 << 20, seed: 1)
      _ = try await test.backUp(test.record("vm", path, .raw))
      for name in ["images", "backup"] {
        try Self.move("\(test.root)/\(name)", "\(test.root)/\(name).old")
        try Self.makeFolder("\(test.root)/\(name)")
      }
      let record = test.record("vm", path, .raw)
      #expect(await code { _ = try await test.backUp(record) } == .repositoryUnavailable)
      let other = test.root + "/backup/other"
      let id = try await test.engine.openRepository(at: other, id: RepositoryID())
      #expect(FileManager.default.fileExists(atPath: other + "/repository.json"))
      var order = test.order(record)
      order.repository = RepositoryLocation(id: id, path: other)
      #expect(await code { _ = try await test.engine.backUp(order, control: RecordingJobControl()) } == .sourceNotFound)
      try SampleImage.raw(at: path, byteCount: 1 << 20, seed: 2)
      _ = try await test.engine.backUp(order, control: RecordingJobControl())
      let place = StoredBackupLocation(
        repository: order.repository, image: record.id, chain: order.newChain, sequence: 0, backup: order.backup)
      try await test.restore(place, to: test.images + "/back.raw", .raw)
      #expect(try SampleImage.bytes(test.images + "/back.raw") == SampleImage.bytes(path))
      #expect(!FileManager.default.fileExists(atPath: test.root + "/images.old/back.raw"))
    }
  }

  @Test func aFolderThatIsGoneIsNamed() async throws {
    try await withEngine { test in
      try Self.move(test.images, test.root + "/away")
      let location = ImageLocation(source: .file(path: test.images + "/vm.raw"), format: .raw)
      let refusal = await #expect(throws: DomainError.self) { try await test.engine.inspect(location) }
      #expect(refusal?.code == .sourceNotFound && refusal?.detail.contains("image folders") == true)
    }
  }

  @Test(arguments: ["moved", "swapped", "removed"])
  func aRepositoryThatDoesntStayHasNoCompleteBackup(how: String) async throws {
    try await withEngine { test in
      let path = test.images + "/vm.raw"
      try SampleImage.raw(at: path, byteCount: 4 << 20, seed: 1)
      let (repository, away) = (test.repositoryPath, test.root + "/backup/away")
      let control = ActingControl {
        try Self.move(repository, away)
        if how == "removed" { try FileManager.default.removeItem(atPath: away) }
        if how == "swapped" { try Self.makeFolder(repository) }
      }
      let order = test.order(test.record("vm", path, .raw))
      #expect(await code { _ = try await test.engine.backUp(order, control: control) } == .repositoryUnavailable)
      #expect(TestEngine.files(beneath: test.root + "/backup").allSatisfy { !$0.contains("/images/") })
    }
  }

  @Test func anImageThatWasReplacedDuringItsBackupFailsIt() async throws {
    try await withEngine { test in
      let (path, images, away) = (test.images + "/vm.raw", test.images, test.root + "/away")
      try SampleImage.raw(at: path, byteCount: 4 << 20, seed: 1)
      let control = ActingControl {
        try Self.move(images, away)
        try Self.makeFolder(images)
        try SampleImage.raw(at: path, byteCount: 4 << 20, seed: 1)
      }
      let order = test.order(test.record("vm", path, .raw))
      #expect(await code { _ = try await test.engine.backUp(order, control: control) } == .imageInUse)
      #expect(test.storedFiles.isEmpty)
    }
  }

  @Test(arguments: [true, false])
  func aRestoreIntoAFolderThatDoesntStayFails(isReplaced: Bool) async throws {
    try await withEngine { test in
      let path = test.images + "/vm.raw"
      try SampleImage.raw(at: path, byteCount: 4 << 20, seed: 1)
      let made = try await test.backUp(test.record("vm", path, .raw))
      let (target, away) = (test.images + "/deep", test.root + "/away")
      try Self.makeFolder(target)
      let control = ActingControl {
        try Self.move(target, away)
        if isReplaced { try Self.makeFolder(target) }
      }
      let order = RestoreOrder(backup: made.place, target: .newFile(path: target + "/back.raw", format: .raw))
      #expect(await code { _ = try await test.engine.restore(order, control: control) } == .sourceNotFound)
      #expect(TestEngine.files(beneath: away).isEmpty && TestEngine.files(beneath: test.images) == ["vm.raw"])
    }
  }

  @Test func aRestoreOverAnImageThatDoesntStayFails() async throws {
    try await withEngine { test in
      let (path, images, away) = (test.images + "/vm.raw", test.images, test.root + "/away")
      try SampleImage.raw(at: path, byteCount: 4 << 20, seed: 1)
      let made = try await test.backUp(test.record("vm", path, .raw))
      let control = ActingControl {
        try Self.move(images, away)
        try Self.makeFolder(images)
        try SampleImage.raw(at: path, byteCount: 4 << 20, seed: 3)
      }
      let location = ImageLocation(source: .file(path: path), format: .raw)
      let order = RestoreOrder(backup: made.place, target: .image(location))
      #expect(await code { _ = try await test.engine.restore(order, control: control) } == .imageInUse)
    }
  }

  @Test func repositoriesArentNested() async throws {
    try await withEngine { test in
      func open(_ path: String) async -> ProblemCode? {
        await code { _ = try await test.engine.openRepository(at: path, id: RepositoryID()) }
      }
      #expect(await open(test.repositoryPath + "/inner/deep") == .repositoryMismatch)
      try Tool.run("ln", "-s", test.repositoryPath, test.root + "/backup/link")
      #expect(await open(test.root + "/backup/link/inner") == .repositoryMismatch)
      #expect(!FileManager.default.fileExists(atPath: test.repositoryPath + "/inner"))
      // One that holds another already, made by other means.
      #expect(await open(test.root + "/backup/outside") == nil)
      try Self.move(test.root + "/backup/outside", test.repositoryPath + "/outside")
      #expect(await open(test.repositoryPath) == .repositoryMismatch)
    }
  }
}
