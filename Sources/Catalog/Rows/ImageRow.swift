import Foundation
import GRDB
import Model

struct ImageRow: TableRow {
  static let table = "images"
  static let columns = [
    "id", "name", "source_kind", "source_path", "format", "virtual_size", "state", "labels", "managed_by",
    "created_at", "revision",
  ]

  private enum SourceKind: String { case file, device }

  let id: String
  let name: String
  let sourceKind: String
  let sourcePath: String
  let format: String
  let virtualSize: Int64
  let state: String
  let labels: String
  let managedBy: String
  let createdAt: Int64
  let revision: Int

  init(_ image: Image) throws {
    id = image.id.description
    name = image.name.text
    sourceKind =
      switch image.source {
      case .file: SourceKind.file.rawValue
      case .device: SourceKind.device.rawValue
      }
    sourcePath = image.source.path
    format = image.format.rawValue
    virtualSize = try StoredForm.count(image.virtualSize, "virtualSize")
    state = image.state.rawValue
    labels = try StoredForm.json(image.labels)
    managedBy = image.managedBy.rawValue
    createdAt = image.createdAt.milliseconds
    revision = image.revision
  }

  init(from columns: inout ColumnReader) {
    id = columns.next()
    name = columns.next()
    sourceKind = columns.next()
    sourcePath = columns.next()
    format = columns.next()
    virtualSize = columns.next()
    state = columns.next()
    labels = columns.next()
    managedBy = columns.next()
    createdAt = columns.next()
    revision = columns.next()
  }

  var values: [(any DatabaseValueConvertible)?] {
    [id, name, sourceKind, sourcePath, format, virtualSize, state, labels, managedBy, createdAt, revision]
  }

  func entity() throws -> Image {
    let check = RowCheck(table: Self.table, key: id)
    let kind: SourceKind = try check.choice(sourceKind)
    let source: ImageSource =
      switch kind {
      case .file: .file(path: sourcePath)
      case .device: .device(path: sourcePath)
      }
    return Image(
      id: try check.id(id), name: try check.name(name), source: source, format: try check.choice(format),
      virtualSize: try check.count(virtualSize), state: try check.choice(state), labels: try check.json(labels),
      managedBy: try check.choice(managedBy), createdAt: Date(milliseconds: createdAt), revision: revision)
  }
}
