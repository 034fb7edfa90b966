import GRDB
import Model

extension Export: NamedEntity {
  static let noun = "export"

  static let mapping = RowMapping(
    "exports",
    Column("id", \Export.id),
    Column("name", \.name),
    source,
    Column("read_only", \.isReadOnly),
    listen,
    Column("tls", \.tls),
    Column("allocation_depth", \.offersAllocationDepth),
    Column(json: "bitmaps", \.bitmaps),
    Column(json: "changed_since", \.changedSince),
    Column("state", \.state),
    Column("failure", \.failure),
    Column("created_at", \.createdAt),
    Column("revision", \.revision),
    make: Export.init)

  /// One of both is there.
  private static let source = Column<Export, ExportSource>("image", "backup") { reader in
    switch (try ImageID?(from: &reader), try BackupID?(from: &reader)) {
    case (let image?, nil): return .image(image)
    case (nil, let backup?): return .backup(backup)
    case (nil, nil), (_?, _?): throw reader.damaged("it is of an image or of a backup, and of one only")
    }
  } write: { export, values in
    switch export.source {
    case .image(let image): values += [image.stored(in: "image"), .null]
    case .backup(let backup): values += [.null, backup.stored(in: "backup")]
    }
  }

  private enum ListenKind: String, ColumnValue { case unix, tcp }

  /// The address is the path of a Unix socket, which has no port, or the host of one.
  private static let listen = Column<Export, ExportAddress>(
    "listen_kind", "listen_address", "listen_port"
  ) { reader in
    let (kind, address) = (try ListenKind(from: &reader), String(from: &reader))
    switch (kind, try Int?(from: &reader)) {
    case (.unix, nil): return .unix(path: address)
    case (.tcp, let number?):
      guard let port = UInt16(exactly: number) else { throw reader.damaged("\(number) is no port") }
      return .tcp(host: address, port: port)
    case (.unix, _?), (.tcp, nil): throw reader.damaged("a TCP address has a port, and a Unix socket has none")
    }
  } write: { export, values in
    switch export.listen {
    case .unix(let path): values += [ListenKind.unix.stored(in: "listen_kind"), path.databaseValue, .null]
    case .tcp(let host, let port):
      values += [ListenKind.tcp.stored(in: "listen_kind"), host.databaseValue, Int(port).databaseValue]
    }
  }
}
