import EventLoops
import Foundation
import Model
import Repositories
import RepositoryTesting
import Testing

/// A second kind of repository, without folders or renames, keeps the same promises.
struct ObjectRepositoryTests {
  @Test func conforms() async throws {
    let group = try EventLoopGroup(count: 1, workerCount: 1)
    let loop = group.next()
    let result: Result<Void, any Error>
    do {
      result = .success(
        try await loop.run {
          let store = ObjectStore()
          let location = RepositoryLocation(id: RepositoryID(), path: "a store")
          let kind = ObjectRepositories(store, writer: ULID())
          _ = try await kind.establish(at: location.path, id: location.id, now: Date(), on: loop)
          let storage = RepositoryStorage(location: location) { ObjectRepositories(store, writer: $0) }
          try await RepositoryConformance(storage: storage, loop: loop).run()
        })
    } catch {
      result = .failure(error)
    }
    await group.shutdown()
    try result.get()
  }
}
