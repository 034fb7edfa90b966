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
