import Foundation
import GRDB
import Model

/// A row as it is stored: text, integers and nulls. Its entity is checked when it is made from it.
protocol TableRow {
  associatedtype Entity

  static var table: String { get }
  /// In the order in which `init(from:)` reads and ``values`` lists them.
  static var columns: [String] { get }

  init(_ entity: Entity) throws
  init(from columns: inout ColumnReader)

  var values: [(any DatabaseValueConvertible)?] { get }
  func entity() throws -> Entity
}

/// Reads a row's columns one after the other: by place, as looking each up by name takes most of the time of a page.
struct ColumnReader {
  private let row: Row
  private var index = 0

  init(_ row: Row) { self.row = row }

  mutating func next<Value: DatabaseValueConvertible & StatementColumnConvertible>() -> Value {
    defer { index += 1 }
    return row[index]
  }

  mutating func nextOrNull<Value: DatabaseValueConvertible & StatementColumnConvertible>() -> Value? {
    defer { index += 1 }
    return row[index]
  }
}

// MARK: What columns hold

extension Date {
  /// Milliseconds since 1970, as dates are stored.
  var milliseconds: Int64 { Int64((timeIntervalSince1970 * 1000).rounded()) }

  init(milliseconds: Int64) { self.init(timeIntervalSince1970: Double(milliseconds) / 1000) }
}

/// The columns of one row on their way to an entity: each conversion names the row and what is wrong with it.
struct RowCheck {
  let table: String
  let key: String

  func ulid(_ text: String) throws -> ULID {
    guard let ulid = ULID(text) else { throw damaged("'\(text)' is not a ULID") }
    return ulid
  }

  func id<Entity>(_ text: String) throws -> Identifier<Entity> { Identifier(try ulid(text)) }

  func id<Entity>(_ text: String?) throws -> Identifier<Entity>? { try text.map(id) }

  func name(_ text: String) throws -> ResourceName {
    guard let name = ResourceName(text) else { throw damaged("'\(text)' is not a name") }
    return name
  }

  func choice<Choice: RawRepresentable<String>>(_ text: String) throws -> Choice {
    guard let choice = Choice(rawValue: text) else { throw damaged("'\(text)' is no \(Choice.self)") }
    return choice
  }

  func count(_ value: Int64) throws -> UInt64 {
    guard let count = UInt64(exactly: value) else { throw damaged("\(value) is less than nothing") }
    return count
  }

  func port(_ value: Int) throws -> UInt16 {
    guard let port = UInt16(exactly: value) else { throw damaged("\(value) is no port") }
    return port
  }

  func json<Value: Decodable>(_ text: String) throws -> Value {
    do { return try JSONDecoder().decode(Value.self, from: Data(text.utf8)) } catch { throw damaged("\(error)") }
  }

  func damaged(_ why: String) -> DomainError { .damagedRow(table, key, why) }
}

enum StoredForm {
  /// Sizes are stored as SQLite's signed integers.
  static func count(_ value: UInt64, _ field: String) throws -> Int64 {
    guard let count = Int64(exactly: value) else {
      throw DomainError(.invalidField, "\(field) is \(value), and no storage holds more than \(Int64.max) bytes")
    }
    return count
  }

  /// Keys are sorted, so that equal values are equal text.
  static func json(_ value: some Encodable) throws -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    return String(decoding: try encoder.encode(value), as: UTF8.self)
  }
}
