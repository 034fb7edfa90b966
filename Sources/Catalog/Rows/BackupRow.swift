import Foundation
import GRDB
import Model

struct BackupRow: TableRow {
  static let table = "backups"
  static let columns = [
    "id", "image", "repository", "chain", "sequence", "group_id", "kind", "requested_kind", "reason", "parent",
    "state", "compression", "consistency", "point_in_time", "created_at", "finished_at", "virtual_size",
    "dirty_bytes", "stored_size", "merkle_root", "verified_at", "verify_level", "job", "failure",
    "state_before_deletion",
    "failure_before_deletion", "mixture", "revision",
  ]

  let id: String
  let image: String
  let repository: String
  let chain: String
  let sequence: Int
  let groupID: String
  let kind: String
  let requestedKind: String
  let reason: String
  let parent: String?
  let state: String
  let compression: String
  let consistency: String
  let pointInTime: Int64
  let createdAt: Int64
  let finishedAt: Int64?
  let virtualSize: Int64
  let dirtyBytes: Int64
  let storedSize: Int64
  let merkleRoot: String?
  let verifiedAt: Int64?
  let verifyLevel: String?
  let job: String?
  let failure: String?
  /// The failure is there only if the state is.
  let stateBeforeDeletion: String?
  let failureBeforeDeletion: String?
  /// Nil is no.
  let isMixture: Bool?
  let revision: Int

  init(_ backup: Backup) throws {
    id = backup.id.description
    image = backup.image.description
    repository = backup.repository.description
    chain = backup.chain.description
    sequence = backup.sequence
    groupID = backup.group.description
    kind = backup.kind.rawValue
    requestedKind = backup.requestedKind.rawValue
    reason = backup.reason
    parent = backup.parent?.description
    state = backup.state.rawValue
    compression = backup.compression.rawValue
    consistency = backup.consistency.rawValue
    pointInTime = backup.pointInTime.milliseconds
    createdAt = backup.createdAt.milliseconds
    finishedAt = backup.finishedAt?.milliseconds
    virtualSize = try StoredForm.count(backup.virtualSize, "virtualSize")
    dirtyBytes = try StoredForm.count(backup.dirtyBytes, "dirtyBytes")
    storedSize = try StoredForm.count(backup.storedSize, "storedSize")
    merkleRoot = backup.merkleRoot
    verifiedAt = backup.verifiedAt?.milliseconds
    verifyLevel = backup.verifyLevel?.rawValue
    job = backup.job?.description
    failure = backup.failure
    stateBeforeDeletion = backup.beforeDeletion?.state.rawValue
    failureBeforeDeletion = backup.beforeDeletion?.failure
    isMixture = backup.isMixture ? true : nil
    revision = backup.revision
  }

  init(from columns: inout ColumnReader) {
    id = columns.next()
    image = columns.next()
    repository = columns.next()
    chain = columns.next()
    sequence = columns.next()
    groupID = columns.next()
    kind = columns.next()
    requestedKind = columns.next()
    reason = columns.next()
    parent = columns.nextOrNull()
    state = columns.next()
    compression = columns.next()
    consistency = columns.next()
    pointInTime = columns.next()
    createdAt = columns.next()
    finishedAt = columns.nextOrNull()
    virtualSize = columns.next()
    dirtyBytes = columns.next()
    storedSize = columns.next()
    merkleRoot = columns.nextOrNull()
    verifiedAt = columns.nextOrNull()
    verifyLevel = columns.nextOrNull()
    job = columns.nextOrNull()
    failure = columns.nextOrNull()
    stateBeforeDeletion = columns.nextOrNull()
    failureBeforeDeletion = columns.nextOrNull()
    isMixture = columns.nextOrNull()
    revision = columns.next()
  }

  var values: [(any DatabaseValueConvertible)?] {
    [
      id, image, repository, chain, sequence, groupID, kind, requestedKind, reason, parent, state, compression,
      consistency, pointInTime, createdAt, finishedAt, virtualSize, dirtyBytes, storedSize, merkleRoot, verifiedAt,
      verifyLevel, job, failure, stateBeforeDeletion, failureBeforeDeletion, isMixture, revision,
    ]
  }

  func entity() throws -> Backup {
    let check = RowCheck(table: Self.table, key: id)
    return Backup(
      id: try check.id(id), image: try check.id(image), repository: try check.id(repository),
      chain: try check.id(chain), sequence: sequence, group: try check.ulid(groupID), kind: try check.choice(kind),
      requestedKind: try check.choice(requestedKind), reason: reason, parent: try check.id(parent),
      state: try check.choice(state), compression: try check.choice(compression),
      consistency: try check.choice(consistency), isMixture: isMixture ?? false,
      pointInTime: Date(milliseconds: pointInTime),
      createdAt: Date(milliseconds: createdAt), finishedAt: finishedAt.map { Date(milliseconds: $0) },
      virtualSize: try check.count(virtualSize), dirtyBytes: try check.count(dirtyBytes),
      storedSize: try check.count(storedSize), merkleRoot: merkleRoot,
      verifiedAt: verifiedAt.map { Date(milliseconds: $0) }, verifyLevel: try verifyLevel.map { try check.choice($0) },
      job: try check.id(job), failure: failure, beforeDeletion: try beforeDeletion(check), revision: revision)
  }

  private func beforeDeletion(_ check: RowCheck) throws -> Backup.BeforeDeletion? {
    guard let stateBeforeDeletion else { return nil }
    return Backup.BeforeDeletion(state: try check.choice(stateBeforeDeletion), failure: failureBeforeDeletion)
  }
}
