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
    try transactions.read { try ExportView($0.find(reference), in: $0, engine) }
  }

  package func exports(_ query: ExportQuery, _ page: PageRequest) throws -> Page<ExportView> {
    try transactions.read { catalog in
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
    _ draft: ExportDraft, _ conditions: ChangeConditions<ExportView> = ChangeConditions()
  ) async throws -> Answer<ExportView> {
    let limits = limits
    return try await answering(conditions) {
      // What the rows tell first, then what the storage tells, then the rows again.
      let (draft, overlays) = try await look(at: try transactions.read { try ExportCreation(draft, limits, in: $0) })
      let creation: @Sendable (any CatalogReading) throws -> ExportCreation = { catalog in
        let creation = try ExportCreation(draft, limits, overlays, in: catalog)
        if !conditions.dryRun { try creation.requireConfirmed() }
        return creation
      }
      if conditions.dryRun { return .planned(try transactions.read { try creation($0).plan }) }
      return try await serving.aloneWithFound({ try transactions.read { try creation($0).served } }) {
        let claims = try transactions.read { try creation($0).claims(in: $0) }
        return try await queue.holding(ClaimHold(claims: claims, words: "the making of export '\(draft.name)'")) {
          // A job that was committed before the hold is in the rows by now.
          try await make(try transactions.read(creation), conditions)
        }
      }
    }
  }

  /// Ends the export, and detaches an image that was attached for its exports with the last one. Throws `exportInUse`
  /// if it is to be safe and has clients.
  package func deleteExport(
    _ reference: Reference<Export>, _ removal: ExportRemoval,
    _ conditions: ChangeConditions<ExportView> = ChangeConditions()
  ) async throws -> Answer<ExportView> {
    try await answering(conditions) {
      if conditions.dryRun {
        let deletion = try transactions.read { try ExportDeletion(reference, conditions, in: $0) }
        return .planned(try plan(deletion, removal))
      }
      return try await serving.aloneWithFound({ try transactions.read { try $0.find(reference).source } }) {
        let deletion = try transactions.read { try ExportDeletion(reference, conditions, in: $0) }
        let hold = ClaimHold(claims: deletion.claims, words: "the deletion of export '\(deletion.export.name)'")
        return try await queue.holding(hold) { try await end(deletion, removal, conditions) }
      }
    }
  }

  /// The draft with its image's id, and what stands on the image if the export may attach it.
  private func look(at creation: ExportCreation) async throws -> (ExportDraft, Overlays) {
    guard case .image(let image, _) = creation.source, !creation.isReadOnly else { return (creation.draft, .none) }
    var draft = creation.draft
    draft.source = .image(.id(image.id))
    return (draft, try await overlays(on: image))
  }

  // MARK: Making

  private func make(_ creation: ExportCreation, _ conditions: ChangeConditions<ExportView>) async throws -> Answer<
    ExportView
  > {
    let now = transactions.time.now()
    let export = creation.export(ExportID(ULID(at: now)), at: now)
    var receipt: AttachReceipt?
    if case .image(let image, attaches: true) = creation.source {
      receipt = try await engine.attach(
        AttachOrder(image: image.id, location: image.location, cache: nil, lockTimeout: 0),
        control: UnattendedControl(logger: logger))
    }
    do {
      try await engine.export(creation.order(for: export))
    } catch {
      await takeBack(creation)
      throw error
    }
    do {
      return try await commit(export, creation, receipt, conditions)
    } catch {
      let stored = Result { try transactions.read { try $0.export(export.id) } }
      // A commit that was told as a failure may have happened.
      if case .success(let row?) = stored { return .done(shown(row)) }
      await serving.withdraw(export.id)
      await takeBack(creation)
      if case .failure = stored {
        serving.follow(export: export.id)
        if case .image(let image, attaches: true) = creation.source { serving.follow(image: image.id) }
      }
      throw error
    }
  }

  private func commit(
    _ export: Export, _ creation: ExportCreation, _ receipt: AttachReceipt?, _ conditions: ChangeConditions<ExportView>
  ) async throws -> Answer<ExportView> {
    let (draft, limits, engine) = (creation.draft, limits, engine)
    return try await change(conditions) { _ in
      creation.plan
    } apply: { transaction in
      let creation = try ExportCreation(draft, limits, in: transaction.catalog)
      if case .image(var image, attaches: true) = creation.source, let receipt {
        image.attach(receipt, cause: .export)
        try transaction.update(image)
      }
      try transaction.insert(export)
      return try ExportView(export, in: transaction.catalog, engine)
    }
  }

  /// Closes the image if it was attached for the export.
  private func takeBack(_ creation: ExportCreation) async {
    if case .image(let image, attaches: true) = creation.source { await serving.close(image.id) }
  }

  /// As it is to be shown where no transaction gave its view.
  private func shown(_ export: Export) -> ExportView {
    let view = try? transactions.read { try ExportView(export, in: $0, engine) }
    return view ?? ExportView(export, activity: engine.activity(of: export.id))
  }

  // MARK: Ending

  private func end(
    _ deletion: ExportDeletion, _ removal: ExportRemoval, _ conditions: ChangeConditions<ExportView>
  ) async throws -> Answer<ExportView> {
    let id = deletion.export.id
    try await withdraw(deletion.export, removal)
    let answer: Answer<ExportView>
    do {
      answer = try await change(conditions) { _ in
        try plan(deletion, removal)
      } apply: { [engine] transaction in
        let export = try ExportDeletion(.id(id), conditions, in: transaction.catalog).apply(in: transaction)
        return try ExportView(export, in: transaction.catalog, engine)
      }
    } catch {
      switch Result(catching: { try transactions.read { try $0.export(id) } }) {
      case .success(nil): answer = .done(shown(deletion.export))
      case .success:
        await serving.open(id)
        throw error
      case .failure:
        serving.follow(export: id)
        if let image = deletion.released { serving.follow(image: image.id) }
        throw error
      }
    }
    if let image = deletion.released { await serving.close(image.id) }
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

  private func plan(_ deletion: ExportDeletion, _ removal: ExportRemoval) throws(DomainError) -> Plan {
    let clients = engine.activity(of: deletion.export.id)?.clients ?? 0
    if clients > 0, removal == .safe {
      throw DomainError(
        .exportInUse, "\(clients) clients use export '\(deletion.export.name)'",
        remedy: "let them disconnect, or cut them off with mode=hard")
    }
    var steps = ["end export '\(deletion.export.name)' at \(deletion.export.listen.text)"]
    if let image = deletion.released { steps.append("detach image '\(image.name)', which was attached for it") }
    return Plan(
      action: "delete-export", steps: steps, warnings: clients > 0 ? ["\(clients) clients are cut off"] : [],
      resource: .exportEnd(deletion.export.id, name: deletion.export.name))
  }
}

/// An export that is to be deleted, with what goes with it.
struct ExportDeletion: Sendable {
  let export: Export
  /// The image that was attached for its exports, of which this is the last.
  let released: Image?

  init(_ reference: Reference<Export>, _ conditions: ChangeConditions<ExportView>, in catalog: any CatalogReading)
    throws
  {
    let export = try catalog.find(reference)
    try conditions.require(revision: export.revision, of: "export '\(export.name)'")
    self.export = export
    guard case .image(let id) = export.source, let image = try catalog.image(id), image.attachment?.cause == .export,
      try catalog.exports(ExportFilter(image: id), PageRequest(limit: 2)).items.count == 1
    else {
      released = nil
      return
    }
    // The image is closed with its last export, and a backup or a fleecing may be reading it.
    try catalog.requireNoJobAtWork(on: image)
    try catalog.requireUnfleeced(image)
    released = image
  }

  /// No other operation opens the image before it is closed here.
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
