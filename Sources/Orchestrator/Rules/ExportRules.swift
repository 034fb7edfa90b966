import Model

// What an export must be to be made.

extension ExportDraft {
  /// Throws `tlsRequired` beyond this machine.
  func requireTLS() throws(DomainError) {
    guard !listen.isLocal, tls == nil else { return }
    throw DomainError(
      .tlsRequired, "\(listen.text) can be reached from other machines",
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

extension [Export] {
  /// How many exports a refusal names.
  private static let named = 5

  /// Their names as one part of a sentence.
  var quoted: String {
    prefix(Self.named).map { "'\($0.name)'" }.joined(separator: ", ") + (count > Self.named ? ", …" : "")
  }
}
