import Foundation
import GRDB
import Model

struct EventRow: TableRow {
  static let table = "events"
  static let columns = ["id", "at", "kind", "subject", "job", "payload"]

  /// Nil until it is inserted: SQLite gives the id.
  let id: Int64?
  let at: Int64
  let kind: String
  let subject: String
  let job: String?
  let payload: String

  init(_ event: Event) throws {
    id = nil
    at = event.at.milliseconds
    kind = event.kind.rawValue
    subject = event.subject.description
    job = event.job?.description
    payload = try StoredForm.json(event.payload)
  }

  init(from columns: inout ColumnReader) {
    id = columns.nextOrNull()
    at = columns.next()
    kind = columns.next()
    subject = columns.next()
    job = columns.nextOrNull()
    payload = columns.next()
  }

  var values: [(any DatabaseValueConvertible)?] { [id, at, kind, subject, job, payload] }

  func entity() throws -> Event {
    let check = RowCheck(table: Self.table, key: "\(id ?? 0)")
    return Event(
      id: id ?? 0, at: Date(milliseconds: at), kind: try check.choice(kind), subject: try check.ulid(subject),
      job: try check.id(job), payload: try check.json(payload))
  }
}
