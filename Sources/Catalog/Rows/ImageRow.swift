import Foundation
import GRDB
import Model

struct ImageRow: TableRow {
  static let table = "images"
  static let columns = [
    "id", "name", "source_kind", "source_place", "format", "virtual_size", "state", "attached_cache",
    "attached_by", "damaged_since", "damaged_why", "damaged_job", "labels", "managed_by", "created_at", "revision",
  ]

  private enum SourceKind: String { case file, device, nbd }

  let id: String
  let name: String
  let sourceKind: String
  /// The path, or the URI.
  let sourcePlace: String
  let format: String
  let virtualSize: Int64
  let state: String
  /// Both are there, or neither.
  let attachedCache: String?
  let attachedBy: String?
  /// All three are there, or none.
  let damagedSince: Int64?
  let damagedWhy: String?
  let damagedJob: String?
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
      case .nbd: SourceKind.nbd.rawValue
      }
    sourcePlace = image.source.place
    format = image.format.rawValue
    virtualSize = try StoredForm.count(image.virtualSize, "virtualSize")
    state = image.state.rawValue
    attachedCache = image.attachment?.cache.rawValue
    attachedBy = image.attachment?.cause.rawValue
    damagedSince = image.damage?.since.milliseconds
    damagedWhy = image.damage?.why
    damagedJob = image.damage?.job.description
    labels = try StoredForm.json(image.labels)
    managedBy = image.managedBy.rawValue
    createdAt = image.createdAt.milliseconds
    revision = image.revision
  }

  init(from columns: inout ColumnReader) {
    id = columns.next()
    name = columns.next()
    sourceKind = columns.next()
    sourcePlace = columns.next()
    format = columns.next()
    virtualSize = columns.next()
    state = columns.next()
    attachedCache = columns.nextOrNull()
    attachedBy = columns.nextOrNull()
    damagedSince = columns.nextOrNull()
    damagedWhy = columns.nextOrNull()
    damagedJob = columns.nextOrNull()
    labels = columns.next()
    managedBy = columns.next()
    createdAt = columns.next()
    revision = columns.next()
  }

  var values: [(any DatabaseValueConvertible)?] {
    [
      id, name, sourceKind, sourcePlace, format, virtualSize, state, attachedCache, attachedBy, damagedSince,
      damagedWhy, damagedJob, labels, managedBy, createdAt, revision,
    ]
  }

  func entity() throws -> Image {
    let check = RowCheck(table: Self.table, key: id)
    let kind: SourceKind = try check.choice(sourceKind)
    let source: ImageSource =
      switch kind {
      case .file: .file(path: sourcePlace)
      case .device: .device(path: sourcePlace)
      case .nbd: .nbd(uri: sourcePlace)
      }
    return Image(
      id: try check.id(id), name: try check.name(name), source: source, format: try check.choice(format),
      virtualSize: try check.count(virtualSize), state: try check.choice(state), attachment: try attachment(check),
      damage: try damage(check), labels: try check.json(labels), managedBy: try check.choice(managedBy),
      createdAt: Date(milliseconds: createdAt), revision: revision)
  }

  private func attachment(_ check: RowCheck) throws -> Attachment? {
    switch (attachedCache, attachedBy) {
    case (nil, nil): nil
    case (let cache?, let cause?): Attachment(cache: try check.choice(cache), cause: try check.choice(cause))
    case (nil, _?), (_?, nil): throw check.damaged("only half of how it is attached is there")
    }
  }

  private func damage(_ check: RowCheck) throws -> Image.Damage? {
    switch (damagedSince, damagedWhy, damagedJob) {
    case (nil, nil, nil): return nil
    case (let since?, let why?, let job?):
      return Image.Damage(since: Date(milliseconds: since), why: why, job: try check.id(job))
    default: throw check.damaged("only a part of what damaged it is there")
    }
  }
}
