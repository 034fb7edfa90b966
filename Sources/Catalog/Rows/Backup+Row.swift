import GRDB
import Model

extension Chain: IdentifiedEntity {
  static let noun = "chain"

  static let mapping = RowMapping(
    "chains",
    Column("id", \Chain.id),
    Column("image", \.image),
    Column("image_name", \.imageName),
    Column("repository", \.repository),
    Column("created_at", \.createdAt),
    make: Chain.init)
}

extension Backup: RevisedEntity {
  static let noun = "backup"

  static let mapping = RowMapping(
    "backups",
    Column("id", \Backup.id),
    Column("image", \.image),
    Column("repository", \.repository),
    Column("chain", \.chain),
    Column("sequence", \.sequence),
    Column("group_id", \.group),
    groupImages,
    Column("kind", \.kind),
    Column("requested_kind", \.requestedKind),
    Column("reason", \.reason),
    Column("tracking_fallback", \.trackingFallback),
    Column("fallback_reason", \.fallbackReason),
    Column("tracker", \.tracker),
    Column("checkpoint", \.checkpoint),
    Column("granularity", \.granularity),
    Column("parent", \.parent),
    Column("state", \.state),
    Column("compression", \.compression),
    Column("consistency", \.consistency),
    Column("mixture", \.isMixture),
    Column("point_in_time", \.pointInTime),
    Column("created_at", \.createdAt),
    Column("finished_at", \.finishedAt),
    Column("virtual_size", \.virtualSize),
    Column("dirty_bytes", \.dirtyBytes),
    Column("stored_size", \.storedSize),
    Column("merkle_root", \.merkleRoot),
    Column("verified_at", \.verifiedAt),
    Column("verify_level", \.verifyLevel),
    Column("job", \.job),
    Column("failure", \.failure),
    beforeDeletion,
    guestImpact,
    Column("revision", \.revision),
    make: Backup.init)

  /// Null where they aren't known.
  private static let groupImages = Column<Backup, [ImageID]>("group_images") { reader in
    try reader.isNull ? reader.skip() ?? [] : reader.json()
  } write: { backup, values in
    let images = backup.groupImages
    values.append(images.isEmpty ? .null : try JSONColumn.text(images).databaseValue)
  }

  /// Null where there is none.
  private static let guestImpact = Column<Backup, GuestImpact?>("guest_impact") { reader in
    try reader.isNull ? reader.skip() ?? nil : reader.json()
  } write: { backup, values in
    values.append(try backup.guestImpact.map { try JSONColumn.text($0).databaseValue } ?? .null)
  }

  /// The failure is there only if the state is.
  private static let beforeDeletion = Column<Backup, BeforeDeletion?>(
    "state_before_deletion", "failure_before_deletion"
  ) { reader in
    let (state, failure) = (try State?(from: &reader), try String?(from: &reader))
    return state.map { BeforeDeletion(state: $0, failure: failure) }
  } write: { backup, values in
    values.append(try (backup.beforeDeletion?.state).stored(in: "state_before_deletion"))
    values.append(try (backup.beforeDeletion?.failure).stored(in: "failure_before_deletion"))
  }
}
