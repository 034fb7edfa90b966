import Foundation
import Model

/// What every implementation of ``BackupCatalog`` promises, as checks that throw what they found broken.
///
///     @Test(arguments: BackupCatalogConformance.checks)
///     func keepsThePort(_ check: BackupCatalogConformance.Check) async throws { try await check.run { try make() } }
package enum BackupCatalogConformance {
  package struct Check: Sendable, CustomStringConvertible {
    package let description: String
    private let body: @Sendable (any BackupCatalog) async throws -> Void

    init(_ description: String, _ body: @Sendable @escaping (any BackupCatalog) async throws -> Void) {
      self.description = description
      self.body = body
    }

    /// Runs the check on a catalog of its own, empty, and closes it.
    package func run(_ makeCatalog: () throws -> any BackupCatalog) async throws {
      let catalog = try makeCatalog()
      try await body(catalog)
      try catalog.close()
    }
  }

  package static let checks: [Check] =
    transactions + images + repositories + backups + exports + fleecings + jobs + events + guards
}

extension BackupCatalogConformance {
  static let transactions: [Check] = [
    Check("a body that throws leaves nothing behind") { catalog in
      let image = Image.sample()
      let failure = DomainError(.storageFull, "out of room")
      try await expectRefusal(.storageFull, "the body's own error comes through") {
        try await catalog.write { transaction in
          try transaction.insert(image)
          try transaction.append(Event(at: ManualClock.epoch, kind: .imageCreated, subject: image.id.ulid))
          throw failure
        }
      }
      try expectEqual(try catalog.read { try $0.image(image.id) }, nil, "the image is gone")
      try expectEqual(try catalog.read { try $0.eventSpan() }, nil, "the event is gone")
    },
    Check("a body sees what it wrote itself") { catalog in
      let image = Image.sample()
      let seen = try await catalog.write { transaction in
        try transaction.insert(image)
        return try transaction.image(named: image.name)
      }
      try expectEqual(seen, image)
    },
    Check("a reader keeps the view it began with, and no writer waits for it") { catalog in
      let first = Image.sample("first")
      let second = Image.sample("second")
      try await catalog.write { try $0.insert(first) }
      let reading = DispatchSemaphore(value: 0)
      let written = DispatchSemaphore(value: 0)
      async let counts = onItsOwnThread {
        try catalog.read { view in
          let before = try view.images(PageRequest()).items.count
          reading.signal()
          guard written.wait(timeout: .now() + 10) == .success else {
            throw ExpectationFailure("a writer waited for a reader")
          }
          return [before, try view.images(PageRequest()).items.count]
        }
      }
      _ = try await onItsOwnThread { reading.wait(timeout: .now() + 10) }
      try await catalog.write { try $0.insert(second) }
      written.signal()
      try expectEqual(try await counts, [1, 1], "the view doesn't change")
      try expectEqual(try catalog.read { try $0.images(PageRequest()).items.count }, 2, "a new view shows the change")
    },
    Check("writers run one at a time and none is lost") { catalog in
      let job = Job.sample()
      try await catalog.write { try $0.insert(job) }
      try await withThrowingTaskGroup(of: Void.self) { group in
        for _ in 0..<40 {
          group.addTask {
            try await catalog.write { transaction in
              guard var stored = try transaction.job(job.id) else { throw CatalogRefusal.missing("job", job.id) }
              stored.progress.done += 1
              try transaction.update(stored)
            }
          }
        }
        try await group.waitForAll()
      }
      let stored = try catalog.read { try $0.job(job.id) }
      try expectEqual(stored?.progress.done, 40)
      try expectEqual(stored?.revision, 41)
    },
    Check("a cancelled task's write is done all the same") { catalog in
      let image = Image.sample()
      let task = Task {
        withUnsafeCurrentTask { $0?.cancel() }
        try await catalog.write { try $0.insert(image) }
      }
      try await task.value
      try expectEqual(try catalog.read { try $0.image(image.id) }, image)
    },
  ]
}

/// Runs blocking work where it holds up no task.
private func onItsOwnThread<Result: Sendable>(
  _ body: @Sendable @escaping () throws -> Result
) async throws -> Result {
  try await withCheckedThrowingContinuation { continuation in
    Thread.detachNewThread {
      do { continuation.resume(returning: try body()) } catch { continuation.resume(throwing: error) }
    }
  }
}
