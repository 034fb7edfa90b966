import Model
import ModelTesting
import Orchestrator

/// What the catalog holds at the start.
struct Stock: Sendable {
  let image = Image.sample("vm1")
  let attached = Image.sample("guest", attachment: Attachment(cache: .direct, cause: .request))
  /// Has the exports `look` and `busy`; only `busy` has a client.
  let shown = Image.sample("shown")
  let look: Export
  let busy: Export
  let repository = Repository.sample("local")
  let ended: Job
  /// Has ended.
  let over = Fleecing.sample(state: .expired)
  let chain: Chain
  let other: Chain
  let complete: Backup
  let failed: Backup
  /// Has `dependent`.
  let parent: Backup
  let dependent: Backup

  static let declarations = Declarations(
    repositories: [RepositoryDraft(name: "fixed", path: "/backup/fixed")],
    images: [ImageDraft(name: "declared", source: .file(path: "/images/declared"), format: .raw)])

  init() {
    chain = Chain.sample(of: image, in: repository)
    other = Chain.sample(of: image, in: repository)
    look = Export.sample("look", of: .image(shown.id))
    busy = Export.sample("busy", of: .image(shown.id))
    var complete = Backup.sample(in: chain)
    complete.checkpoint = ULID()
    self.complete = complete
    failed = Backup.sample(in: Chain.sample(of: image, in: repository), state: .failed)
    parent = Backup.sample(in: other)
    dependent = Backup.sample(in: other, sequence: 1, parent: parent.id)
    ended = Job.sample(.verify(backup: complete.id, level: .checksum), state: .succeeded)
  }

  func store(in catalog: InMemoryCatalog) async throws {
    try await catalog.write { catalog in
      for image in [image, attached, shown] { try catalog.insert(image) }
      try catalog.insert(repository)
      for chain in [chain, other, Chain.sample(of: image, in: repository, id: failed.chain)] {
        try catalog.insert(chain)
      }
      for backup in [complete, failed, parent, dependent] { try catalog.insert(backup) }
      for export in [look, busy] { try catalog.insert(export) }
      try catalog.insert(ended)
      try catalog.insert(over)
    }
  }
}
