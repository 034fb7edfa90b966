import Model

extension Fleecing: RevisedEntity {
  static let noun = "fleecing"

  static let mapping = RowMapping(
    "fleecings",
    Column("id", \Fleecing.id),
    Column(json: "images", \.images),
    .address(\.listen),
    Column("tls", \.tls),
    Column("release", \.release),
    Column("access", \.access),
    Column(jsonOrNull: "since", \.since),
    Column("tracker", \.tracker),
    Column("checkpoint", \.checkpoint),
    Column("label", \.label),
    Column("state", \.state),
    Column("point_in_time", \.pointInTime),
    Column("expires_at", \.expiresAt),
    Column("ended_at", \.endedAt),
    Column("outcome", \.outcome),
    Column(jsonOrNull: "error", \.error),
    Column("created_at", \.createdAt),
    Column("revision", \.revision),
    make: Fleecing.init)
}

extension FleecingCheckpoint: StoredEntity {
  static let mapping = RowMapping(
    "fleecing_checkpoints",
    Column("id", \FleecingCheckpoint.id),
    Column("image", \.image),
    Column("tracker", \.tracker),
    Column("label", \.label),
    Column(json: "tracked", \.tracked),
    Column("point_in_time", \.pointInTime),
    make: FleecingCheckpoint.init)
}
