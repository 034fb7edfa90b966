import Model

// What an export must be to be made.

extension ExportAddress {
  /// Throws `tlsRequired` beyond this machine.
  func require(_ tls: ExportTLS?) throws(DomainError) {
    guard !isLocal, tls == nil else { return }
    throw DomainError(
      .tlsRequired, "\(text) can be reached from other machines",
      remedy: "send \"tls\": \"x509\" or \"psk\", or listen on 127.0.0.1 or a unix socket",
      faults: [DomainError.Fault(.tls, "is required beyond this machine")])
  }
}

extension CatalogReading {
  /// Throws `nameTaken`, `queueFull`, and `addressUnavailable` as far as the rows tell.
  func requireFree(_ draft: ExportDraft, _ limits: ServiceLimits) throws {
    let all = try allPages { try exports(ExportFilter(), $0) }
    if let other = all.first(where: { $0.name == draft.name }) {
      throw DomainError(
        .nameTaken, "export \(other.id) has the name '\(draft.name)' already", remedy: "choose another name")
    }
    guard all.count < limits.maximumExports else {
      throw DomainError(
        .queueFull, "there are \(limits.maximumExports) exports already", remedy: "delete some that nobody needs")
    }
    if let other = all.first(where: { $0.listen.isSame(as: draft.listen) && $0.tls != draft.tls }) {
      let theirs = other.tls.map { "with tls \($0.rawValue)" } ?? "without tls"
      throw DomainError(
        .addressUnavailable, "export '\(other.name)' is served at \(draft.listen.text) \(theirs)",
        remedy: "take the same for this one, or another address")
    }
  }
}

extension [ExportedBitmap] {
  /// Throws `invalidField` if there are any, where an export is of a backup.
  func requireNone() throws(DomainError) {
    guard !isEmpty else { return }
    throw DomainError(
      .invalidField, "a backup has no bitmaps", remedy: "export an image for those that it has",
      faults: [DomainError.Fault(Field("contexts").member("bitmaps"), "must be empty for a backup")])
  }
}

extension CatalogReading {
  /// Where the backups lie from which an export of `source` shows what changed. Throws `invalidField` for an image, and
  /// for a backup of another image; `notFound`, `backupNotComplete`, `backupCorrupt`.
  func located(_ differences: [ExportedDifference], for source: ExportSource) throws -> [ExportOrder.Difference] {
    guard !differences.isEmpty else { return [] }
    let field = Field("contexts").member("changedSince")
    guard case .backup(let id) = source else {
      throw DomainError(
        .invalidField, "what changed in an image since a backup isn't shown",
        remedy: "show the image's bitmaps, or export another backup of it",
        faults: [DomainError.Fault(field, "must be empty for an image")])
    }
    let exported = try storedBackup(id)
    return try differences.enumerated().map { index, difference in
      let base = try storedBackup(difference.backup)
      guard base.backup.image == exported.backup.image else {
        throw DomainError(
          .invalidField,
          "backup \(id) is of '\(exported.imageName)', and \(difference.backup) of '\(base.imageName)'",
          remedy: "name backups of one image",
          faults: [DomainError.Fault(field.item(index).member("backup"), "must be a backup of the same image")])
      }
      try base.backup.requireReadable()
      return ExportOrder.Difference(backup: base.location, exportName: difference.exportName)
    }
  }
}

extension Export {
  /// That must stay as long as the export does: the one that it shows, and those that it is compared with.
  var backups: [BackupID] {
    let compared = changedSince.map(\.backup)
    return if case .backup(let id) = source { [id] + compared } else { compared }
  }
}

extension [Export] {
  /// How many exports a refusal names.
  private static let named = 5

  /// Their names as one part of a sentence.
  var quoted: String {
    prefix(Self.named).map { "'\($0.name)'" }.joined(separator: ", ") + (count > Self.named ? ", …" : "")
  }
}
