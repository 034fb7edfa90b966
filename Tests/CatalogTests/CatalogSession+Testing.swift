import Catalog
import GRDB

extension CatalogSession {
  func text(_ sql: String) throws -> String? { try String.fetchOne(database, sql: sql) }

  func texts(_ sql: String) throws -> [String] { try String.fetchAll(database, sql: sql) }

  func execute(_ sql: String) throws { try database.execute(sql: sql) }
}
