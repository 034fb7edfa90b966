import Foundation
import Logging
import Model

// How an export is made and ended, one at a time for each image and backup:
//
// X1. The rows are checked, the engine serves, then one transaction checks again and writes the export with its image.
//     What it refuses is taken back: the export, then the image that was attached for it.
// X2. An export ends in the engine first, for only that tells whether clients use it; if its row stays all the same, it
//     is served again. An image that was attached for it is closed after its last export's row is gone.
// X3. No job that would be in the way starts meanwhile; one that was asked for meanwhile refuses the export.

extension BackupService {
  package func export(_ reference: Reference<Export>) throws -> ExportView {
    try ledger.read { try ExportView($0.find(reference), in: $0, engine) }
  }

  package func exports(_ query: ExportQuery, _ page: PageRequest) throws -> Page<ExportView> {
    try ledger.read { catalog in
      let image: ImageID? =
        switch query.image {
        case nil: nil
        case .id(let id): id
        case .name: try query.image.map { try catalog.find($0).id }
        }
      let filter = ExportFilter(image: image, backup: query.backup)
      return try catalog.exports(filter, page).map { try ExportView($0, in: catalog, engine) }
    }
  }

  /// Serves an image or a backup; a read-write export attaches its image. Throws `nameTaken`, `tlsRequired`,
  /// `addressUnavailable`, `imageInUse`, `imageNotAttached`, `confirmationRequired`, `backupNotComplete`,
  /// `backupCorrupt`, and what the engine says.
  package func createExport(
    _ draft: ExportDraft, _ terms: Terms<ExportView> = Terms()
  ) async throws -> Answer<ExportView> {
    let limits = limits
    return try await answering(terms) {
      // What the rows tell first, then what the storage tells, then the rows again.
      let (draft, overlays) = try await look(at: try ledger.read { try ExportIntent(draft, limits, in: $0) })
      let intent: @Sendable (any CatalogReading) throws -> ExportIntent = { catalog in
        let intent = try ExportIntent(draft, limits, overlays, in: catalog)
        if !terms.dryRun { try intent.requireConfirmed() }
        return intent
      }
      if terms.dryRun { return .planned(try ledger.read { try intent($0).plan }) }
      return try await serving.aloneWithFound({ try ledger.read { try intent($0).served } }) {
        let claims = try ledger.read { try intent($0).claims(in: $0) }
        return try await queue.holding(ClaimHold(claims: claims, words: "the making of export '\(draft.name)'")) {
          // A job that was committed before the hold is in the rows by now.
          try await make(try ledger.read(intent), terms)
        }
      }
    }
  }

  /// Ends the export, and detaches an image that was attached for its exports with the last one. Throws `exportInUse`
  /// if it is to be safe and has clients.
  package func deleteExport(
    _ reference: Reference<Export>, _ removal: ExportRemoval, _ terms: Terms<ExportView> = Terms()
  ) async throws -> Answer<ExportView> {
    try await answering(terms) {
      if terms.dryRun {
        let doom = try ledger.read { try ExportDoom(reference, terms, in: $0) }
        return .planned(try plan(doom, removal))
      }
      return try await serving.aloneWithFound({ try ledger.read { try $0.find(reference).source } }) {
        let doom = try ledger.read { try ExportDoom(reference, terms, in: $0) }
        let hold = ClaimHold(claims: doom.claims, words: "the deletion of export '\(doom.export.name)'")
        return try await queue.holding(hold) { try await end(doom, removal, terms) }
      }
    }
  }

  /// The draft with its image's id, and what stands on the image if the export may attach it.
  private func look(at intent: ExportIntent) async throws -> (ExportDraft, Overlays) {
    guard case .image(let image, _) = intent.source, !intent.isReadOnly else { return (intent.draft, .none) }
    var draft = intent.draft
    draft.source = .image(.id(image.id))
    return (draft, try await overlays(on: image))
  }

  // MARK: Making

  private func make(_ intent: ExportIntent, _ terms: Terms<ExportView>) async throws -> Answer<ExportView> {
    let now = ledger.time.now()
    let export = intent.export(ExportID(ULID(at: now)), at: now)
    var receipt: AttachReceipt?
    if case .image(let image, attaches: true) = intent.source {
      receipt = try await engine.attach(
        AttachOrder(image: image.id, location: image.location, cache: nil, lockPatience: 0),
        control: UnattendedControl(logger: logger))
    }
    do {
      try await engine.export(intent.order(for: export))
    } catch {
      await takeBack(intent)
      throw error
    }
    do {
      return try await commit(export, intent, receipt, terms)
    } catch {
      let stored = Result { try ledger.read { try $0.export(export.id) } }
      // A commit that was told as a failure may have happened.
      if case .success(let row?) = stored { return .done(shown(row)) }
      await serving.withdraw(export.id)
      await takeBack(intent)
      if case .failure = stored {
        serving.follow(export: export.id)
        if case .image(let image, attaches: true) = intent.source { serving.follow(image: image.id) }
      }
      throw error
    }
  }

  private func commit(
    _ export: Export, _ intent: ExportIntent, _ receipt: AttachReceipt?, _ terms: Terms<ExportView>
  ) async throws -> Answer<ExportView> {
    let (draft, limits, engine) = (intent.draft, limits, engine)
    return try await change(terms) { _ in
      intent.plan
    } apply: { transaction in
      let intent = try ExportIntent(draft, limits, in: transaction.catalog)
      if case .image(var image, attaches: true) = intent.source, let receipt {
        image.attach(receipt, cause: .export)
        try transaction.update(image)
      }
      try transaction.insert(export)
      return try ExportView(export, in: transaction.catalog, engine)
    }
  }

  /// Closes the image if it was attached for the export.
  private func takeBack(_ intent: ExportIntent) async {
    if case .image(let image, attaches: true) = intent.source { await serving.close(image.id) }
  }

  /// As it is to be shown where no transaction gave its view.
  private func shown(_ export: Export) -> ExportView {
    let view = try? ledger.read { try ExportView(export, in: $0, engine) }
    return view ?? ExportView(export, activity: engine.activity(of: export.id))
  }

  // MARK: Ending

  private func end(
    _ doom: ExportDoom, _ removal: ExportRemoval, _ terms: Terms<ExportView>
  ) async throws -> Answer<ExportView> {
    let id = doom.export.id
    try await withdraw(doom.export, removal)
    let answer: Answer<ExportView>
    do {
      answer = try await change(terms) { _ in
        try plan(doom, removal)
      } apply: { [engine] transaction in
        let export = try ExportDoom(.id(id), terms, in: transaction.catalog).apply(in: transaction)
        return try ExportView(export, in: transaction.catalog, engine)
      }
    } catch {
      switch Result(catching: { try ledger.read { try $0.export(id) } }) {
      case .success(nil): answer = .done(shown(doom.export))
      case .success:
        await serving.open(id)
        throw error
      case .failure:
        serving.follow(export: id)
        if let image = doom.released { serving.follow(image: image.id) }
        throw error
      }
    }
    if let image = doom.released { await serving.close(image.id) }
    return answer
  }

  private func withdraw(_ export: Export, _ removal: ExportRemoval) async throws {
    do {
      try await engine.withdraw(export.id, removal)
    } catch {
      // What isn't served any more may be deleted, however that came about.
      guard (error as? DomainError)?.code != .exportInUse, engine.activity(of: export.id) == nil else { throw error }
      logger.warning(
        "an export ended with an error", metadata: ["export": "\(export.name)", "error": "\(error)"])
    }
  }

  private func plan(_ doom: ExportDoom, _ removal: ExportRemoval) throws(DomainError) -> Plan {
    let clients = engine.activity(of: doom.export.id)?.clients ?? 0
    if clients > 0, removal == .safe {
      throw DomainError(
        .exportInUse, "\(clients) clients use export '\(doom.export.name)'",
        remedy: "let them disconnect, or cut them off with mode=hard")
    }
    var steps = ["end export '\(doom.export.name)' at \(doom.export.listen.text)"]
    if let image = doom.released { steps.append("detach image '\(image.name)', which was attached for it") }
    return Plan(
      action: "delete-export", steps: steps, warnings: clients > 0 ? ["\(clients) clients are cut off"] : [],
      resource: .exportEnd(doom.export.id, name: doom.export.name))
  }
}

/// An export that is to be deleted, with what goes with it.
struct ExportDoom: Sendable {
  let export: Export
  /// The image that was attached for its exports, of which this is the last.
  let released: Image?

  init(_ reference: Reference<Export>, _ terms: Terms<ExportView>, in catalog: any CatalogReading) throws {
    let export = try catalog.find(reference)
    try terms.require(revision: export.revision, of: "export '\(export.name)'")
    self.export = export
    guard case .image(let id) = export.source, let image = try catalog.image(id), image.attachment?.cause == .export,
      try catalog.exports(ExportFilter(image: id), PageRequest(limit: 2)).items.count == 1
    else {
      released = nil
      return
    }
    released = image
  }

  /// Nobody opens the image before it is closed here.
  var claims: [JobClaim] {
    released.map { [JobClaim(subject: .image($0.id), isAlone: true, words: "image '\($0.name)'")] } ?? []
  }

  func apply(in transaction: CatalogTransaction) throws -> Export {
    try transaction.delete(export)
    if var image = released {
      image.detach()
      try transaction.update(image)
    }
    return export
  }
}
