import Model

/// What a job needs for itself, or together with others, while it runs.
///
///                  image     chain     repository   path
///     backup       shared    –         shared       –
///     verify       –         shared    shared       –
///     restore      alone¹    shared    shared       alone²      ¹ the image it writes over
///                                                               ² the file it makes, or the NBD export it overwrites
///     check        shared³   –         –            –           ³ alone if it repairs
///     attach       alone     –         –            –
///     detach       alone     –         –            –
///     delete       –         alone     shared       –
///     rescan       –         –         alone        –
struct JobClaim: Hashable, Sendable {
  enum Subject: Hashable, Sendable {
    case image(ImageID)
    case chain(ChainID)
    case repository(RepositoryID)
    case path(String)
  }

  var subject: Subject
  var isAlone: Bool
  /// E.g. "image 'vm1'".
  var words: String

  func excludes(_ other: JobClaim) -> Bool { subject == other.subject && (isAlone || other.isAlone) }

  static func claims(of request: JobRequest, in catalog: any CatalogReading) throws -> [JobClaim] {
    switch request {
    case .backup(let request):
      try request.images.map { try image($0, isAlone: false, in: catalog) }
        + [repository(request.repository, isAlone: false, in: catalog)]
    case .verify(let backup, _): try of(backup, isAlone: false, in: catalog)
    case .deleteBackup(let backup): try of(backup, isAlone: true, in: catalog)
    case .rescan(let id): [try repository(id, isAlone: true, in: catalog)]
    case .restore(let backup, let target):
      switch target {
      case .newFile(let path, _):
        try of(backup, isAlone: false, in: catalog)
          // Its links were resolved when it was asked for.
          + [JobClaim(subject: .path(comparablePath(path)), isAlone: true, words: "the file \(path)")]
      case .image(let id):
        try of(backup, isAlone: false, in: catalog) + [image(id, isAlone: true, in: catalog)]
      case .nbd(let uri, _):
        try of(backup, isAlone: false, in: catalog) + [JobClaim(subject: .path(uri), isAlone: true, words: uri)]
      }
    case .check(let id, let repairsLeaks): [try image(id, isAlone: repairsLeaks, in: catalog)]
    case .attach(let id, _), .detach(let id): [try image(id, isAlone: true, in: catalog)]
    }
  }

  private static func of(_ id: BackupID, isAlone: Bool, in catalog: any CatalogReading) throws -> [JobClaim] {
    guard let backup = try catalog.backup(id) else { return [] }
    return [
      chain(backup.chain, isAlone: isAlone),
      try repository(backup.repository, isAlone: false, in: catalog),
    ]
  }

  static func chain(_ id: ChainID, isAlone: Bool) -> JobClaim {
    JobClaim(subject: .chain(id), isAlone: isAlone, words: "chain \(id)")
  }

  static func image(_ id: ImageID, isAlone: Bool, in catalog: any CatalogReading) throws -> JobClaim {
    let name = try catalog.image(id)?.name.text ?? id.description
    return JobClaim(subject: .image(id), isAlone: isAlone, words: "image '\(name)'")
  }

  private static func repository(
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
