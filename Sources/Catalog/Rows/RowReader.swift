import Foundation
import GRDB
import Model

/// Reads a row's columns one after the other: by place, as looking each up by name takes most of the time of a page.
/// What can't be is refused with the row's name.
struct RowReader {
  private let row: Row
  private let table: String
  private var index = 0

  /// One for all rows: to make it takes as long as to use it.
  private static let decoder = JSONDecoder()

  init(_ row: Row, of table: String) {
    self.row = row
    self.table = table
  }

  mutating func next<Value: DatabaseValueConvertible & StatementColumnConvertible>() -> Value {
    defer { index += 1 }
    return row[index]
  }

  /// Whether the next column is null.
  var isNull: Bool { row.hasNull(atIndex: index) }

  /// Leaves the next column out.
  mutating func skip<Value>() -> Value? {
    index += 1
    return nil
  }

  mutating func json<Value: Decodable>() throws -> Value {
    let text: String = next()
    do { return try Self.decoder.decode(Value.self, from: Data(text.utf8)) } catch { throw damaged("\(error)") }
  }

  /// The row is named by its first column.
  func damaged(_ why: String) -> DomainError {
    .damagedRow(table, String.fromDatabaseValue(row[0] as DatabaseValue) ?? "\(row[0] as DatabaseValue)", why)
  }
}

enum JSONColumn {
  /// Keys are sorted, so that equal values are equal text.
  static func text(_ value: some Encodable) throws -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    return String(decoding: try encoder.encode(value), as: UTF8.self)
  }
}
