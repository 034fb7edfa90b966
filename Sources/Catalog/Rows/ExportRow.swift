import Foundation
import GRDB
import Model

struct ExportRow: TableRow {
  static let table = "exports"
  static let columns = [
    "id", "name", "image", "backup", "read_only", "listen_kind", "listen_address", "listen_port", "tls",
    "allocation_depth", "state", "failure", "created_at", "revision",
  ]

  private enum ListenKind: String { case unix, tcp }

  let id: String
  let name: String
  /// One of `image` and `backup` is there.
  let image: String?
  let backup: String?
  let isReadOnly: Bool
  let listenKind: String
  /// The path of a Unix socket, which has no port.
  let listenAddress: String
  let listenPort: Int?
  let tls: String?
  let offersAllocationDepth: Bool
  let state: String
  let failure: String?
  let createdAt: Int64
  let revision: Int

  init(_ export: Export) throws {
    id = export.id.description
    name = export.name.text
    (image, backup) =
      switch export.source {
      case .image(let image): (image.description, nil)
      case .backup(let backup): (nil, backup.description)
      }
    isReadOnly = export.isReadOnly
    (listenKind, listenAddress, listenPort) =
      switch export.listen {
      case .unix(let path): (ListenKind.unix.rawValue, path, nil)
      case .tcp(let host, let port): (ListenKind.tcp.rawValue, host, Int(port))
      }
    tls = export.tls?.rawValue
    offersAllocationDepth = export.offersAllocationDepth
    state = export.state.rawValue
    failure = export.failure
    createdAt = export.createdAt.milliseconds
    revision = export.revision
  }

  init(from columns: inout ColumnReader) {
    id = columns.next()
    name = columns.next()
    image = columns.nextOrNull()
    backup = columns.nextOrNull()
    isReadOnly = columns.next()
    listenKind = columns.next()
    listenAddress = columns.next()
    listenPort = columns.nextOrNull()
    tls = columns.nextOrNull()
    offersAllocationDepth = columns.next()
    state = columns.next()
    failure = columns.nextOrNull()
    createdAt = columns.next()
    revision = columns.next()
  }

  var values: [(any DatabaseValueConvertible)?] {
    [
      id, name, image, backup, isReadOnly, listenKind, listenAddress, listenPort, tls, offersAllocationDepth, state,
      failure, createdAt, revision,
    ]
  }

  func entity() throws -> Export {
    let check = RowCheck(table: Self.table, key: id)
    return Export(
      id: try check.id(id), name: try check.name(name), source: try source(check), isReadOnly: isReadOnly,
      listen: try listen(check), tls: try tls.map { try check.choice($0) },
      offersAllocationDepth: offersAllocationDepth, state: try check.choice(state), failure: failure,
      createdAt: Date(milliseconds: createdAt), revision: revision)
  }

  private func source(_ check: RowCheck) throws -> ExportSource {
    switch (image, backup) {
    case (let image?, nil): .image(try check.id(image))
    case (nil, let backup?): .backup(try check.id(backup))
    case (nil, nil), (_?, _?): throw check.damaged("it is of an image or of a backup, and of one only")
    }
  }

  private func listen(_ check: RowCheck) throws -> ExportAddress {
    let kind: ListenKind = try check.choice(listenKind)
    switch (kind, listenPort) {
    case (.unix, nil): return .unix(path: listenAddress)
    case (.tcp, let port?): return .tcp(host: listenAddress, port: try check.port(port))
    case (.unix, _?), (.tcp, nil): throw check.damaged("a TCP address has a port, and a Unix socket has none")
    }
  }
}
