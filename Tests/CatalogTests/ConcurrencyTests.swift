import Catalog
import Foundation
import Model
import ModelTesting
import Testing

struct ConcurrencyTests {
  /// Each write moves one from `left` to `right`: a reader that sees half of a transaction sees another sum.
  @Test func readersSeeWholeTransactionsWhileWritersRun() async throws {
    let folder = try TemporaryFolder()
    let catalog = try SQLiteCatalog(stateFolder: folder.path)
    let left = Job.sample(state: .running)
    let right = Job.sample(state: .running)
    let sum: UInt64 = 200
    try await catalog.write { transaction in
      try transaction.insert(left)
      try transaction.insert(right)
      try transaction.setProgress(JobProgress(done: sum), of: left.id)
    }
    try await withThrowingTaskGroup(of: Int.self) { group in
      for _ in 0..<2 {
        group.addTask {
          for _ in 0..<100 {
            try await catalog.write { transaction in
              let done = try #require(try transaction.job(left.id)).progress.done
              try transaction.setProgress(JobProgress(done: done - 1), of: left.id)
              try transaction.setProgress(JobProgress(done: sum - done + 1), of: right.id)
            }
          }
          return 0
        }
      }
      for _ in 0..<12 {
        group.addTask {
          var torn = 0
          for _ in 0..<200 {
            let total = try catalog.read { view in
              let first = try #require(try view.job(left.id)).progress.done
              return first + (try #require(try view.job(right.id))).progress.done
            }
            if total != sum { torn += 1 }
            await Task.yield()
          }
          return torn
        }
      }
      for try await torn in group { #expect(torn == 0) }
    }
    #expect(try catalog.read { try $0.job(left.id) }?.progress.done == 0)
    try catalog.close()
  }
}
