import Foundation
import GRDB
import Model

extension Image: NamedEntity {
  static let noun = "image"

  static let mapping = RowMapping(
    "images",
    Column("id", \Image.id),
    Column("name", \.name),
    source,
    Column("format", \.format),
    Column("virtual_size", \.virtualSize),
    Column("state", \.state),
    attachment,
    damage,
    Column("exclusive", \.isExclusive),
    Column(json: "labels", \.labels),
    Column("managed_by", \.managedBy),
    Column("created_at", \.createdAt),
    Column("revision", \.revision),
    make: Image.init)

  private enum SourceKind: String, ColumnValue { case file, device, nbd }

  private static let source = Column<Image, ImageSource>("source_kind", "source_place") { reader in
    let (kind, place) = (try SourceKind(from: &reader), String(from: &reader))
    switch kind {
    case .file: return .file(path: place)
    case .device: return .device(path: place)
    case .nbd: return .nbd(uri: place)
    }
  } write: { image, values in
    let kind: SourceKind =
      switch image.source {
      case .file: .file
      case .device: .device
      case .nbd: .nbd
      }
    values += [kind.stored(in: "source_kind"), image.source.place.databaseValue]
  }

  private static let attachment = Column<Image, Attachment?>("attached_cache", "attached_by") { reader in
    switch (try CacheMode?(from: &reader), try Attachment.Cause?(from: &reader)) {
    case (nil, nil): return nil
    case (let cache?, let cause?): return Attachment(cache: cache, cause: cause)
    case (nil, _?), (_?, nil): throw reader.damaged("only half of how it is attached is there")
    }
  } write: { image, values in
    values.append(try (image.attachment?.cache).stored(in: "attached_cache"))
    values.append(try (image.attachment?.cause).stored(in: "attached_by"))
  }

  private static let damage = Column<Image, Damage?>("damaged_since", "damaged_why", "damaged_job") { reader in
    switch (try Date?(from: &reader), try String?(from: &reader), try JobID?(from: &reader)) {
    case (nil, nil, nil): return nil
    case (let since?, let why?, let job?): return Damage(since: since, why: why, job: job)
    default: throw reader.damaged("only a part of what damaged it is there")
    }
  } write: { image, values in
    values.append(try (image.damage?.since).stored(in: "damaged_since"))
    values.append(try (image.damage?.why).stored(in: "damaged_why"))
    values.append(try (image.damage?.job).stored(in: "damaged_job"))
  }
}

extension Repository: NamedEntity {
  static let noun = "repository"

  static let mapping = RowMapping(
    "repositories",
    Column("id", \Repository.id),
    Column("name", \.name),
    Column("kind", \.kind),
    Column("path", \.path),
    Column("state", \.state),
    Column("read_only", \.isReadOnly),
    Column("managed_by", \.managedBy),
    Column("created_at", \.createdAt),
    Column("revision", \.revision),
    make: Repository.init)
}
