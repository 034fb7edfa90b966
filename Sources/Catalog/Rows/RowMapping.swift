import GRDB
import Model

/// How an entity is stored as rows of a table: the one description that columns, reading and writing come from.
///
/// A mapping lists the columns in the order of the entity's memberwise initialiser, which takes what they read: a
/// property without a column, or a column of another type, doesn't compile.
struct RowMapping<Entity>: Sendable {
  let table: String
  /// What is read, in the order in which ``entity(from:)`` reads it.
  let columns: [String]
  /// Columns that are written for searching and never read: each follows from the others.
  let derived: [DerivedColumn]

  private let encode: @Sendable (Entity) throws -> [DatabaseValue]
  private let decode: @Sendable (inout RowReader) throws -> Entity

  struct DerivedColumn: Sendable {
    let name: String
    let value: @Sendable (Entity) -> String
  }

  init<each Value>(
    _ table: String, _ column: repeat Column<Entity, each Value>, derived: [DerivedColumn] = [],
    make: @escaping @Sendable (repeat each Value) throws -> Entity
  ) {
    self.table = table
    self.derived = derived
    var names: [String] = []
    repeat names += (each column).names
    columns = names
    encode = { [count = names.count] entity in
      var values: [DatabaseValue] = []
      values.reserveCapacity(count)
      repeat try (each column).write(entity, &values)
      return values
    }
    decode = { reader in try make(repeat try (each column).read(&reader)) }
  }

  /// All that is written, in the order of ``values(of:)``.
  var writtenColumns: [String] { columns + derived.map(\.name) }

  func values(of entity: Entity) throws -> [DatabaseValue] {
    try encode(entity) + derived.map { $0.value(entity).databaseValue }
  }

  func entity(from row: Row) throws -> Entity {
    var reader = RowReader(row, of: table)
    return try decode(&reader)
  }
}

/// One value of an entity, and the column, or the few columns, that hold it.
struct Column<Entity, Value>: Sendable {
  let names: [String]
  /// Appends a value for each of the names.
  let write: @Sendable (Entity, inout [DatabaseValue]) throws -> Void
  /// Reads as many columns as there are names.
  let read: @Sendable (inout RowReader) throws -> Value

  init(
    _ names: String..., read: @escaping @Sendable (inout RowReader) throws -> Value,
    write: @escaping @Sendable (Entity, inout [DatabaseValue]) throws -> Void
  ) {
    self.names = names
    self.read = read
    self.write = write
  }
}

extension Column where Value: ColumnValue {
  init(_ name: String, _ property: KeyPath<Entity, Value> & Sendable) {
    self.init(
      name, read: { try Value(from: &$0) }, write: { $1.append(try $0[keyPath: property].stored(in: name)) })
  }
}

extension Column where Value: Codable & SendableMetatype {
  /// As JSON text: for what is never searched.
  init(json name: String, _ property: KeyPath<Entity, Value> & Sendable) {
    self.init(
      name, read: { try $0.json() }, write: { $1.append(try JSONColumn.text($0[keyPath: property]).databaseValue) })
  }

  /// As JSON text, or null.
  init<Wrapped: Codable & SendableMetatype>(jsonOrNull name: String, _ property: KeyPath<Entity, Value> & Sendable)
  where Value == Wrapped? {
    self.init(
      name, read: { try $0.isNull ? $0.skip() : $0.json() as Wrapped },
      write: { $1.append(try $0[keyPath: property].map { try JSONColumn.text($0).databaseValue } ?? .null) })
  }
}

/// An entity that rows of one table hold.
protocol StoredEntity: Sendable {
  static var mapping: RowMapping<Self> { get }
}

/// An entity with an id, which its row has as the primary key `id`.
protocol IdentifiedEntity: StoredEntity {
  /// What refusals call it.
  static var noun: String { get }
  var id: Identifier<Self> { get }
}

/// An entity whose row counts its changes.
protocol RevisedEntity: IdentifiedEntity {
  var revision: Int { get set }
}

/// An entity with a name that no other row of the table has.
protocol NamedEntity: RevisedEntity {
  var name: ResourceName { get }
}
