import GRDB
import Model

extension Event: StoredEntity {
  static let mapping = RowMapping(
    "events",
    givenID,
    Column("at", \.at),
    Column("kind", \.kind),
    Column("subject", \.subject),
    Column("job", \.job),
    Column(json: "payload", \.payload),
    make: Event.init)

  /// SQLite gives the id of what is inserted with null.
  private static let givenID = Column<Event, Int64>("id") { reader in
    reader.next()
  } write: { _, values in
    values.append(.null)
  }
}

extension IdempotencyRecord: StoredEntity {
  static let mapping = RowMapping(
    "idempotency_keys",
    guarded,
    Column("body_hash", \IdempotencyRecord.bodyHash),
    Column("answer", \.answer),
    Column("created_at", \.createdAt),
    make: IdempotencyRecord.init)

  private static let guarded = Column<IdempotencyRecord, IdempotencyKey>("key", "who", "route") { reader in
    let (key, who, route) = (String(from: &reader), String(from: &reader), String(from: &reader))
    return IdempotencyKey(who: who, route: route, key: key)
  } write: { record, values in
    values += [record.key.key.databaseValue, record.key.who.databaseValue, record.key.route.databaseValue]
  }
}
