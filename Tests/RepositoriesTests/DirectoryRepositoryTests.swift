import BlockCore
import Buffers
import EventLoops
import Foundation
import Glibc
import Model
import ModelTesting
import Repositories
import Testing

/// Repositories of kind `directory` keep the port's promises, on file systems with their finer calls and without.
struct DirectoryRepositoryTests {
  @Test(arguments: IOBackend.allCases, [true, false])
  func conforms(_ backend: IOBackend, hasFineCalls: Bool) async throws {
    // A machine may forbid one of them.
    guard let group = try? EventLoopGroup(count: 1, backend: .forced(backend), workerCount: 1) else { return }
    let made: Result<Void, any Error>
    do { made = .success(try await conform(group, hasFineCalls)) } catch { made = .failure(error) }
    await group.shutdown()
    try made.get()
  }

  @Test(arguments: RepositoryFlaw.allCases)
  func suiteFindsEachMistake(_ flaw: RepositoryFlaw) async throws {
    let group = try EventLoopGroup(count: 1, workerCount: 1)
    // The suite may end at the first thing that isn't as it should be.
    await withKnownIssue { try await conform(group, true, flaw) }
    await group.shutdown()
  }

  private func conform(_ group: EventLoopGroup, _ hasFineCalls: Bool, _ flaw: RepositoryFlaw? = nil) async throws {
    var calls = FolderCalls.kernel
    if !hasFineCalls {
      calls.renameExclusively = { _, _, _, _ in EINVAL }
      calls.synchronize = { _ in EINVAL }
    }
    let (folder, flawed, path) = (try TemporaryFolder(), calls, "repository")
    let place = try folder.makeFolder(path)
    let makeKind: @Sendable (ULID) throws -> any RepositoryKind = { writer in
      let kind = DirectoryRepositories(
        writer: writer, lease: LeaseTiming(), work: InlineWork(), pool: BufferPool()
      ) { path, _ in LocalFolderFiles(try Folder(path: path).making(flawed)) }
      return flaw.map { FlawedRepositories(next: kind, flaw: $0) } ?? kind
    }
    let loop = group.next()
    try await loop.run {
      let id = RepositoryID()
      let established = try await makeKind(ULID()).establish(at: place, id: id, now: Date(), on: loop)
      #expect(established.id == id && established.repair == nil)
      let again = try await makeKind(ULID()).establish(at: place, id: RepositoryID(), now: Date(), on: loop)
      #expect(again.id == id)
      let storage = RepositoryStorage(location: RepositoryLocation(id: id, path: place), makeKind: makeKind)
      try await RepositoryConformance(storage: storage, loop: loop).run()
    }
    withExtendedLifetime(folder) {}
  }
}
