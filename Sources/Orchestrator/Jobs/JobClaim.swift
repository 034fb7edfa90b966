import Model

/// What a job needs for itself, or together with others, while it runs.
///
///                  image     history   chain     repository   path
///     backup       shared    alone¹    –         shared       –           ¹ but a copy, which builds on nothing
///     verify⁵      –         –         shared    shared       –            ⁵ a backup or a chain
///     restore      alone²    –         shared    shared       alone³      ² the image it writes over
///                                                                         ³ the file it makes, or the NBD export
///     check        shared⁴   –         –         –            –           ⁴ alone if it repairs
///     attach       alone     –         –         –            –
///     detach       alone     –         –         –            –
///     reconcile    alone     –         –         –            –
///     fleece       shared    –         –         –            –
///     finish⁶      shared    –         –         –            –            ⁶ of a fleecing
///     delete       –         shared    alone     shared       –
///     rescan       –         –         –         alone        –
///
/// An image's history is what a repository holds of it: a backup builds on what is there when it begins, so nothing of
/// it goes, and nothing is added, until it ends.
struct JobClaim: Hashable, Sendable {
  enum Subject: Hashable, Sendable {
    case image(ImageID)
    case history(ImageID, RepositoryID)
    case chain(ChainID)
    case repository(RepositoryID)
    case path(String)
  }

  var subject: Subject
  var isAlone: Bool
  /// E.g. "image 'vm1'".
  var words: String

  func excludes(_ other: JobClaim) -> Bool { subject == other.subject && (isAlone || other.isAlone) }

  /// The chain of the backup, and its repository together with others.
  static func backup(_ id: BackupID, isAlone: Bool, in catalog: any CatalogReading) throws -> [JobClaim] {
    guard let backup = try catalog.backup(id) else { return [] }
    return [
      chain(backup.chain, isAlone: isAlone),
      try repository(backup.repository, isAlone: false, in: catalog),
    ]
  }

  static func history(
    of image: ImageID, in repository: RepositoryID, isAlone: Bool, _ catalog: any CatalogReading
  ) throws -> JobClaim {
    let names = (
      try catalog.image(image)?.name.text ?? image.description,
      try catalog.repository(repository)?.name.text ?? repository.description
    )
    return JobClaim(
      subject: .history(image, repository), isAlone: isAlone,
      words: "the backups of image '\(names.0)' in repository '\(names.1)'")
  }

  static func chain(_ id: ChainID, isAlone: Bool) -> JobClaim {
    JobClaim(subject: .chain(id), isAlone: isAlone, words: "chain \(id)")
  }

  static func image(_ id: ImageID, isAlone: Bool, in catalog: any CatalogReading) throws -> JobClaim {
    let name = try catalog.image(id)?.name.text ?? id.description
    return JobClaim(subject: .image(id), isAlone: isAlone, words: "image '\(name)'")
  }

  static func repository(
    _ id: RepositoryID, isAlone: Bool, in catalog: any CatalogReading
  ) throws -> JobClaim {
    let name = try catalog.repository(id)?.name.text ?? id.description
    return JobClaim(subject: .repository(id), isAlone: isAlone, words: "repository '\(name)'")
  }
}

/// The claims of something that isn't a job, e.g. of a request that makes an export. Nothing that they exclude starts
/// meanwhile.
struct ClaimHold: Sendable {
  let id = ULID()
  var claims: [JobClaim]
  /// E.g. "the making of export 'disk0'".
  var words: String
}

/// The path without doubled slashes and "." steps, so that two spellings can be compared. ".." stays: what it means
/// depends on links.
func comparablePath(_ path: String) -> String {
  "/" + path.split(separator: "/").filter { $0 != "." }.joined(separator: "/")
}

/// Whether `path` lies within `folder`, as far as the spelling tells.
func lies(_ path: String, within folder: String) -> Bool {
  comparablePath(path).hasPrefix(comparablePath(folder) + "/")
}
