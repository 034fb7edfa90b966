import Foundation

/// One change of state, told to all listeners. Commits in the transaction of the change.
package struct Event: Hashable, Sendable, Codable {
  package enum Kind: String, Sendable, Codable, CaseIterable {
    case imageCreated = "image.created"
    case imageChanged = "image.changed"
    case imageDeleted = "image.deleted"
    case repositoryCreated = "repository.created"
    case repositoryChanged = "repository.changed"
    case repositoryDeleted = "repository.deleted"
    case backupCreated = "backup.created"
    case backupChanged = "backup.changed"
    case backupDeleted = "backup.deleted"
    case exportCreated = "export.created"
    case exportChanged = "export.changed"
    case exportDeleted = "export.deleted"
    case bitmapCreated = "bitmap.created"
    case bitmapChanged = "bitmap.changed"
    case bitmapDeleted = "bitmap.deleted"
    case fleecingCreated = "fleecing.created"
    case fleecingChanged = "fleecing.changed"
    case fleecingDeleted = "fleecing.deleted"
    case jobCreated = "job.created"
    case jobChanged = "job.changed"
  }

  /// Given by the catalog at the commit: growing, without reuse. 0 until then.
  package var id: Int64
  package var at: Date
  package var kind: Kind
  /// The ULID of what changed; of a bitmap, that of its image.
  package var subject: ULID
  /// The job that it belongs to, so that a job's own stream can be cut from the whole.
  package var job: JobID?
  package var payload: EventPayload

  package init(
    id: Int64 = 0, at: Date, kind: Kind, subject: ULID, job: JobID? = nil, payload: EventPayload = EventPayload()
  ) {
    self.id = id
    self.at = at
    self.kind = kind
    self.subject = subject
    self.job = job
    self.payload = payload
  }
}
