import Foundation
import GRDB
import Model

struct IdempotencyRow: TableRow {
  static let table = "idempotency_keys"
  static let columns = ["who", "route", "key", "body_hash", "status", "headers", "body", "created_at"]

  let who: String
  let route: String
  let key: String
  let bodyHash: String
  let status: Int
  let headers: String
  let body: String
  let createdAt: Int64

  init(_ record: IdempotencyRecord) throws {
    who = record.key.who
    route = record.key.route
    key = record.key.key
    bodyHash = record.bodyHash
    status = record.status
    headers = try StoredForm.json(record.headers)
    body = record.body
    createdAt = record.createdAt.milliseconds
  }

  init(from columns: inout ColumnReader) {
    who = columns.next()
    route = columns.next()
    key = columns.next()
    bodyHash = columns.next()
    status = columns.next()
    headers = columns.next()
    body = columns.next()
    createdAt = columns.next()
  }

  var values: [(any DatabaseValueConvertible)?] { [who, route, key, bodyHash, status, headers, body, createdAt] }

  func entity() throws -> IdempotencyRecord {
    let check = RowCheck(table: Self.table, key: key)
    return IdempotencyRecord(
      key: IdempotencyKey(who: who, route: route, key: key), bodyHash: bodyHash, status: status,
      headers: try check.json(headers), body: body, createdAt: Date(milliseconds: createdAt))
  }
}
