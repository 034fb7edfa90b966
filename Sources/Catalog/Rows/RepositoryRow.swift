import Foundation
import GRDB
import Model

struct RepositoryRow: TableRow {
  static let table = "repositories"
  static let columns = ["id", "name", "kind", "path", "state", "managed_by", "created_at", "revision", "read_only"]

  let id: String
  let name: String
  let kind: String
  let path: String
  let state: String
  let managedBy: String
  let createdAt: Int64
  let revision: Int
  /// Null is no.
  let readOnly: Bool?

  init(_ repository: Repository) {
    id = repository.id.description
    name = repository.name.text
    kind = repository.kind.rawValue
    path = repository.path
    state = repository.state.rawValue
    managedBy = repository.managedBy.rawValue
    createdAt = repository.createdAt.milliseconds
    revision = repository.revision
    readOnly = repository.isReadOnly ? true : nil
  }

  init(from columns: inout ColumnReader) {
    id = columns.next()
    name = columns.next()
    kind = columns.next()
    path = columns.next()
    state = columns.next()
    managedBy = columns.next()
    createdAt = columns.next()
    revision = columns.next()
    readOnly = columns.next()
  }

  var values: [(any DatabaseValueConvertible)?] {
    [id, name, kind, path, state, managedBy, createdAt, revision, readOnly]
  }

  func entity() throws -> Repository {
    let check = RowCheck(table: Self.table, key: id)
    return Repository(
      id: try check.id(id), name: try check.name(name), kind: try check.choice(kind), path: path,
      state: try check.choice(state), isReadOnly: readOnly ?? false, managedBy: try check.choice(managedBy),
      createdAt: Date(milliseconds: createdAt), revision: revision)
  }
}
