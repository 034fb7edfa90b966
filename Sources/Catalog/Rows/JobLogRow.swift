import Foundation
import GRDB
import Model

struct JobLogRow: TableRow {
  static let table = "job_log"
  static let columns = ["sequence", "at", "level", "message"]

  let sequence: Int
  let at: Int64
  let level: String
  let message: String

  init(_ entry: JobLogEntry) {
    sequence = entry.sequence
    at = entry.at.milliseconds
    level = entry.level.rawValue
    message = entry.message
  }

  init(from columns: inout ColumnReader) {
    sequence = columns.next()
    at = columns.next()
    level = columns.next()
    message = columns.next()
  }

  var values: [(any DatabaseValueConvertible)?] { [sequence, at, level, message] }

  func entity() throws -> JobLogEntry {
    let check = RowCheck(table: Self.table, key: "\(sequence)")
    return JobLogEntry(
      sequence: sequence, at: Date(milliseconds: at), level: try check.choice(level), message: message)
  }
}
