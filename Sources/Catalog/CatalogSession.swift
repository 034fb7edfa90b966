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

  /// The conditions of a list, all of which hold, and the index that serves them in the list's order. It is named
  /// where there are several to choose from: without statistics SQLite may choose the one that reads the most.
  struct Filter {
    var conditions: [Condition]
    /// A column that isn't null.
    var present: String?
    var index: String?

    init(_ conditions: [Condition?] = [], present: String? = nil, index: String? = nil) {
      self.conditions = conditions.compactMap(\.self)
      self.present = present
      self.index = index
    }
  }

  func one<Stored: StoredEntity>(_ type: Stored.Type, where conditions: Condition...) throws -> Stored? {
    let statement = try database.cachedStatement(sql: "\(Self.select(type)) WHERE \(Self.text(conditions))")
    let found: [Stored] = try entities(of: statement, conditions.map(\.value))
    return found.first
  }

  /// The entities whose `column`, which has an index, is one of these ids.
  func all<Stored: StoredEntity>(_ type: Stored.Type, where column: String, in ids: [String]) throws -> [Stored] {
    let statement = try database.cachedStatement(
      sql: "\(Self.select(type)) WHERE \(column) IN (SELECT value FROM json_each(?))")
    return try entities(of: statement, [Self.json(ids)])
  }

  /// Ids, which need no escape, as a JSON array: a statement takes any number of them in one place.
  static func json(_ ids: [String]) -> String { "[" + ids.map { "\"\($0)\"" }.joined(separator: ",") + "]" }

  /// At most `limit` entities that meet the conditions and whose `key` is above `after`, in order of `key`.
  func list<Stored: StoredEntity>(
    _ type: Stored.Type, where filter: Filter = Filter(), after: some DatabaseValueConvertible,
    key: String = "id", limit: Int
  ) throws -> [Stored] {
    let index = filter.index.map { " INDEXED BY \($0)" } ?? ""
    let present = filter.present.map { "\($0) IS NOT NULL AND " } ?? ""
    let fixed = (filter.conditions.isEmpty ? "" : Self.text(filter.conditions) + " AND ") + present
    let statement = try database.cachedStatement(
      sql: "\(Self.select(type))\(index) WHERE \(fixed)\(key) > ? ORDER BY \(key) LIMIT ?")
    return try entities(of: statement, filter.conditions.map(\.value) + [after, limit])
  }

  /// A page of a list that is ordered by id.
  func page<Stored: IdentifiedEntity>(
    _ type: Stored.Type, _ list: PagedList, where filter: Filter = Filter(), _ request: PageRequest
  ) throws -> Page<Stored> {
    let after = try request.id(Stored.self, in: list)
    let found = try self.list(type, where: filter, after: after?.description ?? "", limit: request.boundedLimit + 1)
    return Page(found, list, request) { $0.id }
  }

  /// Inserts the entity's row, with columns that the entity doesn't know.
  func store<Stored: StoredEntity>(
    _ entity: Stored, with extra: KeyValuePairs<String, any DatabaseValueConvertible> = [:]
  ) throws {
    let columns = Stored.mapping.writtenColumns + extra.map(\.key)
    let statement = try database.cachedStatement(
      sql: """
        INSERT INTO \(Stored.mapping.table) (\(columns.joined(separator: ", ")))
        VALUES (\(columns.map { _ in "?" }.joined(separator: ", ")))
        """)
    try statement.execute(
      arguments: StatementArguments(try Stored.mapping.values(of: entity) + extra.map(\.value.databaseValue)))
  }

  /// Overwrites every column of the row with the entity's id.
  func overwrite<Stored: IdentifiedEntity>(_ entity: Stored) throws {
    let settings = Stored.mapping.writtenColumns.map { "\($0) = ?" }.joined(separator: ", ")
    let statement = try database.cachedStatement(sql: "UPDATE \(Stored.mapping.table) SET \(settings) WHERE id = ?")
    try statement.execute(
      arguments: StatementArguments(try Stored.mapping.values(of: entity) + [entity.id.description.databaseValue]))
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

  func entities<Stored: StoredEntity>(
    of statement: Statement, _ values: [any DatabaseValueConvertible]
  ) throws -> [Stored] {
    let cursor = try Row.fetchCursor(statement, arguments: StatementArguments(values))
    var entities: [Stored] = []
    while let row = try cursor.next() { entities.append(try Stored.mapping.entity(from: row)) }
    return entities
  }

  static func select<Stored: StoredEntity>(_ type: Stored.Type) -> String {
    "SELECT \(Stored.mapping.columns.joined(separator: ", ")) FROM \(Stored.mapping.table)"
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
