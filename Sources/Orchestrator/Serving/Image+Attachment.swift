import Foundation
import Model

// What an image must be for the work on it: at rest, or free to be attached or detached.

extension Image {
  mutating func attach(_ receipt: AttachReceipt, cause: Attachment.Cause) {
    state = .attached
    attachment = Attachment(cache: receipt.cache, cause: cause)
    virtualSize = receipt.virtualSize
  }

  /// One that couldn't be opened stays unavailable until somebody looks again.
  mutating func detach() {
    if state == .attached { state = .detached }
    attachment = nil
  }

  /// Neither open here for a guest, nor to be opened again.
  var isAtRest: Bool { state != .attached && attachment == nil }
}

/// Throws `imageInUse` for an image that is attached, or is to be again.
func requireAtRest(_ image: Image) throws(DomainError) {
  guard image.state != .attached else {
    throw DomainError(.imageInUse, "image '\(image.name)' is attached", remedy: "detach it first")
  }
  guard image.attachment == nil else {
    throw DomainError(
      .imageInUse, "image '\(image.name)' is to be attached, and couldn't be opened yet",
      remedy: "attach it again, or detach it")
  }
}

/// Throws `imageInUse` while the image has exports; with `onlyActive`, while clients are offered it.
func requireNoExports(of image: Image, onlyActive: Bool = false, in catalog: any CatalogReading) throws {
  let exports = try allPages { try catalog.exports(ExportFilter(image: image.id), $0) }
    .filter { !onlyActive || $0.state == .active }
  guard !exports.isEmpty else { return }
  throw DomainError(
    .imageInUse, "image '\(image.name)' is exported as \(quoted(exports))", remedy: "delete the exports first")
}

/// Throws `imageInUse` if there is nothing to attach: it is already, or a read-only export has it open.
func requireAttachable(_ image: Image, cache: CacheMode?, in catalog: any CatalogReading) throws {
  guard image.state == .attached, let attachment = image.attachment else {
    // Those that are unavailable are opened when it is attached.
    if image.attachment == nil { try requireNoExports(of: image, onlyActive: true, in: catalog) }
    return
  }
  guard attachment.cause == .export else {
    throw DomainError(.imageInUse, "image '\(image.name)' is attached already")
  }
  guard cache == nil || cache == attachment.cache else {
    throw DomainError(
      .imageInUse,
      "image '\(image.name)' is attached already, for its exports, with cache \(attachment.cache.rawValue)",
      remedy: "leave \"cache\" out to keep it attached as it is, or delete its exports first")
  }
}

/// Throws `imageInUse` unless it is at rest; who repairs it has it alone.
func requireCheckable(_ image: Image, repairsLeaks: Bool, in catalog: any CatalogReading) throws {
  try requireAtRest(image)
  if repairsLeaks { try requireNoExports(of: image, in: catalog) }
}

/// Throws `imageNotAttached`, and `imageInUse` while it has exports.
func requireDetachable(_ image: Image, in catalog: any CatalogReading) throws {
  guard !image.isAtRest else {
    throw DomainError(.imageNotAttached, "image '\(image.name)' isn't attached")
  }
  try requireNoExports(of: image, in: catalog)
}

/// Throws `exportInUse` while clients are offered the backup, or one that builds on it.
func requireNotExported(_ id: BackupID, in catalog: any CatalogReading) throws {
  var backups = [id]
  var next = 0
  while next < backups.count {
    let backup = backups[next]
    let exports = try allPages { try catalog.exports(ExportFilter(backup: backup), $0) }
    guard exports.isEmpty else {
      throw DomainError(
        .exportInUse,
        (backup == id ? "backup \(id) is" : "backup \(backup), which builds on \(id), is")
          + " exported as \(quoted(exports))", remedy: "delete the exports first")
    }
    backups += try catalog.dependents(of: backup)
    next += 1
  }
}

/// How many exports a refusal names.
private let namedExports = 5

private func quoted(_ exports: [Export]) -> String {
  exports.prefix(namedExports).map { "'\($0.name)'" }.joined(separator: ", ")
    + (exports.count > namedExports ? ", …" : "")
}
