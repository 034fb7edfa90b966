import GRDB
import Model

/// One transaction on the database. Every statement is prepared once for each connection and kept.
package struct CatalogSession {
  package let database: Database

  package init(_ database: Database) { self.database = database }
}

extension CatalogSession {
  /// A condition on a column, for statements that are put together from several.
  struct Condition {
    let column: String
    let value: any DatabaseValueConvertible

    init(_ column: String, _ value: any DatabaseValueConvertible) {
      self.column = column
      self.value = value
    }

    init?(_ column: String, ifGiven value: (any DatabaseValueConvertible)?) {
      guard let value else { return nil }
      self.init(column, value)
    }
  }

  func one<Stored: TableRow>(_ type: Stored.Type, where conditions: Condition...) throws -> Stored.Entity? {
    let statement = try database.cachedStatement(
      sql: "SELECT \(type.columns.joined(separator: ", ")) FROM \(type.table) WHERE \(Self.text(conditions))")
    return try rows(type, of: statement, conditions.map(\.value)).first?.entity()
  }

  /// The rows whose `column`, which has an index, is one of these ids.
  func all<Stored: TableRow>(
    _ type: Stored.Type, where column: String, in ids: [String]
  ) throws -> [Stored.Entity] {
    let statement = try database.cachedStatement(
      sql: """
        SELECT \(type.columns.joined(separator: ", ")) FROM \(type.table)
        WHERE \(column) IN (SELECT value FROM json_each(?))
        """)
    return try rows(type, of: statement, [Self.json(ids)]).map { try $0.entity() }
  }

  /// Ids, which need no escape, as a JSON array: a statement takes any number of them in one place.
  static func json(_ ids: [String]) -> String { "[" + ids.map { "\"\($0)\"" }.joined(separator: ",") + "]" }

  /// At most `limit` rows that meet the conditions and whose `key` is above `after`, in order of `key`.
  func list<Stored: TableRow>(
    _ type: Stored.Type, where conditions: [Condition] = [], after: some DatabaseValueConvertible,
    key: String = "id", limit: Int
  ) throws -> [Stored.Entity] {
    let fixed = conditions.isEmpty ? "" : Self.text(conditions) + " AND "
    let statement = try database.cachedStatement(
      sql: """
        SELECT \(type.columns.joined(separator: ", ")) FROM \(type.table)
        WHERE \(fixed)\(key) > ? ORDER BY \(key) LIMIT ?
        """)
    let values = conditions.map(\.value) + [after, limit]
    return try rows(type, of: statement, values).map { try $0.entity() }
  }

  /// A page of a list that is ordered by id.
  func page<Stored: TableRow, Entity: Sendable>(
    _ type: Stored.Type, _ list: PagedList, where conditions: [Condition?] = [], _ request: PageRequest,
    id: (Entity) -> Identifier<Entity>
  ) throws -> Page<Entity> where Stored.Entity == Entity {
    let after = try request.id(Entity.self, in: list)
    let found = try self.list(
      type, where: conditions.compactMap(\.self), after: after?.description ?? "", limit: request.boundedLimit + 1)
    return Page(found, list, request) { id($0) }
  }

  func insert(_ row: some TableRow) throws { try insert(row, extra: [:]) }

  /// Inserts the row with columns that its type leaves out.
  func insert<Stored: TableRow>(_ row: Stored, extra: KeyValuePairs<String, any DatabaseValueConvertible>) throws {
    let columns = Stored.columns + extra.map(\.key)
    let statement = try database.cachedStatement(
      sql: """
        INSERT INTO \(Stored.table) (\(columns.joined(separator: ", ")))
        VALUES (\(columns.map { _ in "?" }.joined(separator: ", ")))
        """)
    try statement.execute(arguments: StatementArguments(row.values + extra.map(\.value)))
  }

  /// Overwrites every column of the row with that id.
  func overwrite<Stored: TableRow>(_ row: Stored, id: String) throws {
    let statement = try database.cachedStatement(
      sql: "UPDATE \(Stored.table) SET \(Stored.columns.map { "\($0) = ?" }.joined(separator: ", ")) WHERE id = ?")
    try statement.execute(arguments: StatementArguments(row.values + [id]))
  }

  /// Runs a statement; returns how many rows it changed.
  @discardableResult
  func execute(_ sql: String, _ values: (any DatabaseValueConvertible)?...) throws -> Int {
    try database.cachedStatement(sql: sql).execute(arguments: StatementArguments(values))
    return database.changesCount
  }

  func value<Value: DatabaseValueConvertible>(
    _ type: Value.Type, _ sql: String, _ values: (any DatabaseValueConvertible)?...
  ) throws -> Value? {
    try Value.fetchOne(database.cachedStatement(sql: sql), arguments: StatementArguments(values))
  }

  private func rows<Stored: TableRow>(
    _ type: Stored.Type, of statement: Statement, _ values: [any DatabaseValueConvertible]
  ) throws -> [Stored] {
    let cursor = try Row.fetchCursor(statement, arguments: StatementArguments(values))
    var rows: [Stored] = []
    while let row = try cursor.next() {
      var columns = ColumnReader(row)
      rows.append(Stored(from: &columns))
    }
    return rows
  }

  private static func text(_ conditions: [Condition]) -> String {
    conditions.map { "\($0.column) = ?" }.joined(separator: " AND ")
  }
}

extension Page {
  /// Cuts `items`, which are one more than asked for if the list goes on, to the page.
  init(_ items: [Item], _ list: PagedList, _ request: PageRequest, key: (Item) -> some CustomStringConvertible) {
    let shown = Array(items.prefix(request.boundedLimit))
    let isLast = shown.count == items.count
    self.init(items: shown, next: isLast ? nil : shown.last.map { PageCursor.text(list, after: key($0)) })
  }
}
