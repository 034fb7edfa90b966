import BlockCore
import EventLoops
import Failures
import Foundation
import Model
import Repositories

// How images of one group come to one moment.
//
// P1. Images are held in order of id, so that two groups never wait for each other in a circle.
// P2. The moment is when all are held. No byte of any is read before it, and each stays held until it is stored.
// P3. What a backup will be (kind, chain, place in it, parent) is decided at the moment, under the image's lease.
// P4. One that can't be held leaves nothing behind. Unless the group continues without it, neither do the others.
extension LocalEngine {
  package func begin(_ group: GroupOrder, control: any JobControl) async throws -> [BackupBeginning] {
    var held: [BackupID: BegunBackup] = [:]
    var failures: [BackupID: ProblemDetails] = [:]
    do {
      for order in group.backups.sorted(by: { $0.image.id < $1.image.id }) {
        // The first is held at once, as a group of one always is.
        if !held.isEmpty || !failures.isEmpty { try await control.checkpoint() }
        do {
          held[order.backup] = try await hold(order, control)
        } catch let error as DomainError {
          failures[order.backup] = ProblemDetails(error)
          guard group.continuesAfterFailure else {
            await letGo(Array(held.values), control)
            return group.backups.map { .failed(failures[$0.backup] ?? Self.lost(with: order, error)) }
          }
        }
      }
    } catch {
      await letGo(Array(held.values), control)
      throw error
    }
    let moment = clock.now()
    return group.backups.map { order in
      guard var backup = held[order.backup] else { return .failed(failures[order.backup] ?? Self.unheld) }
      backup.plan.pointInTime = moment
      begunBackups.put(backup)
      return .begun(backup.plan)
    }
  }

  package func abandon(_ backups: [BackupID]) async {
    await letGo(backups.compactMap { begunBackups.take($0) }, nil)
  }

  /// Opens the image with its locks, takes its lease, and begins its stage.
  private func hold(_ order: BackupOrder, _ control: any JobControl) async throws -> BegunBackup {
    let location = ImageLocation(source: order.image.source, format: order.image.format)
    return try await onLoop(for: control.job, in: order.repository.lane) { [self] loop in
      let repository = try await openToWrite(order.repository, on: loop)
      let image = try await openToBackUp(location, on: loop, control)
      if case .nbd(let uri) = location.source {
        control.log(.warning, "\(uri): nothing can prove that it isn't written to while it is backed up")
      }
      return try await attempt {
        if order.kind != .copy {
          try await telling(about: image.name) { try await StoredTracker.requirePlace(for: order.tracker, in: image) }
        }
        let lease = try await repository.takeLease(on: order.image.id, control: control)
        return try await attempt {
          let wanted = BackupDecision(
            order: order, chain: try await repository.newestChain(of: order.image.id, tracker: order.tracker),
            tracker: explained(
              try await telling(about: image.name) { try await StoredTracker.find(order.tracker, in: image) }, of: image
            ),
            byteCount: image.device.byteCount, moment: clock.now())
          let (plan, base) = try await decisionThatHolds(wanted, in: repository, control).plan
          let place = StoredBackupLocation(
            repository: order.repository, image: order.image.id, chain: plan.chain, sequence: plan.sequence,
            backup: order.backup)
          let stage = try await lease.begin(place, of: order.image, for: control.job)
          return BegunBackup(
            order: order, image: image, repository: repository, lease: lease, stage: stage, loop: loop,
            job: control.job, plan: plan,
            parent: (base?.parent).map { stored($0, in: repository) },
            tracked: (base?.tracked).map { (stored($0.from, in: repository), $0.changes) })
        } orCleanUp: {
          await lease.giveBack()
        }
      } orCleanUp: {
        try? await image.device.close()
      }
    }
  }

  private func letGo(_ backups: [BegunBackup], _ control: (any JobControl)?) async {
    for backup in backups {
      do {
        let left = try await onLoop(backup.loop, for: backup.job, in: backup.order.repository.lane) { _ in
          await backup.letGo()
        }
        for text in left { control?.log(.warning, "a leftover couldn't be removed, recovery will try again: \(text)") }
      } catch {
        logger.error("letting go of \(backup.image.name): \(error)")
      }
    }
  }

  private static func lost(with order: BackupOrder, _ error: DomainError) -> ProblemDetails {
    ProblemDetails(
      DomainError(
        .pointInTimeLost, "image '\(order.image.name)' couldn't be held at the moment of its group: \(error.detail)",
        remedy: "mend that, or ask with \"onFailure\": \"continue\" to back up the others without it"))
  }

  private static var unheld: ProblemDetails {
    ProblemDetails(DomainError(.internalError, "the image was not held"))
  }
}
