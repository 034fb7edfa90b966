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
    .address(\.listen),
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
}
