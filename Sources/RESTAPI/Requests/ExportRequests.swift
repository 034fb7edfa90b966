import Bytes
import Model
import Orchestrator

extension RequestFields {
  /// The body that makes an export.
  func exportDraft() throws(DomainError) -> ExportDraft {
    let name = resourceName("name")
    let source = object("source").flatMap(exportSource)
    let isReadOnly = boolean("readOnly", required: false)
    if case .backup? = source, isReadOnly == false {
      refuse("readOnly", "must be true, or absent: a backup never changes")
    }
    let listen = object("listen").flatMap(exportAddress)
    let tls = choice("tls", of: ExportTLS.self, required: false)
    let contexts = object("contexts", required: false)
    let offersAllocationDepth = contexts?.boolean("allocationDepth", required: false) ?? false
    let bitmaps = contexts?.exportedBitmaps() ?? []
    let changedSince = contexts?.exportedDifferences() ?? []
    let confirm = string("confirm", required: false)
    try finish()
    guard let name, let source, let listen else { throw Self.incomplete }
    return ExportDraft(
      name: name, source: source, isReadOnly: isReadOnly, listen: listen, tls: tls,
      offersAllocationDepth: offersAllocationDepth, bitmaps: bitmaps, changedSince: changedSince, confirm: confirm)
  }

  /// The merge patch of an export. Only its contexts change.
  func exportChange() throws(DomainError) -> ExportChange {
    var change = ExportChange()
    if isNull("contexts") {
      change = ExportChange(offersAllocationDepth: false, bitmaps: [], changedSince: [])
    } else if let contexts = object("contexts", required: false) {
      change.offersAllocationDepth =
        contexts.isNull("allocationDepth") ? false : contexts.boolean("allocationDepth", required: false)
      change.bitmaps = contexts.isNull("bitmaps") ? [] : contexts.exportedBitmaps()
      change.changedSince = contexts.isNull("changedSince") ? [] : contexts.exportedDifferences()
    }
    refuseFixed([
      "id", "name", "source", "uri", "readOnly", "listen", "tls", "state", "failure", "clients", "activity",
      "createdAt",
    ])
    try finish()
    return change
  }

  enum ExportSourceKind: String, CaseIterable {
    case image, backup
  }

  private func exportSource(_ source: RequestFields) -> ExportSourceDraft? {
    switch source.choice("kind", of: ExportSourceKind.self) {
    case .image: source.reference("image", to: Image.self).map { .image($0) }
    case .backup: source.id("backup", of: Backup.self).map { .backup($0) }
    case nil: nil
    }
  }

  /// Nil where they aren't given. An empty list shows none.
  private func exportedBitmaps() -> [ExportedBitmap]? {
    let bitmaps: [ExportedBitmap]? = list(
      "bitmaps", atMost: ExportedBitmap.maximumCount, of: "objects {bitmap, exportName}", mayBeEmpty: true,
      required: false
    ) { item in
      guard case .fields(let fields) = item, let bitmap = fields.bitmapName("bitmap") else { return nil }
      return fields.exportName(or: bitmap.text, "the bitmap's name where that is UTF-8").map {
        ExportedBitmap(bitmap: bitmap, exportName: $0)
      }
    }
    requireDistinct(bitmaps?.map(\.exportName), in: "bitmaps")
    return bitmaps
  }

  /// Nil where they aren't given. An empty list shows none.
  private func exportedDifferences() -> [ExportedDifference]? {
    let differences: [ExportedDifference]? = list(
      "changedSince", atMost: ExportedBitmap.maximumCount, of: "objects {backup, exportName}", mayBeEmpty: true,
      required: false
    ) { item in
      guard case .fields(let fields) = item, let backup = fields.id("backup", of: Backup.self) else { return nil }
      return fields.exportName(or: backup.description, "the backup's id").map {
        ExportedDifference(backup: backup, exportName: $0)
      }
    }
    requireDistinct(differences?.map(\.exportName), in: "changedSince")
    return differences
  }

  private func exportName(or standard: String?, _ what: String) -> String? {
    let name = string("exportName", required: false) ?? standard
    guard let name, (1...ExportedBitmap.longestExportName).contains(name.utf8.count) else {
      refuse(
        "exportName", "must have 1 to \(ExportedBitmap.longestExportName) bytes; without it, it is \(what)")
      return nil
    }
    return name
  }

  private func requireDistinct(_ names: [String]?, in list: String) {
    guard let names, Set(names).count < names.count else { return }
    refuse(list, "must have an exportName each that no other has")
  }

  // MARK: Addresses

  func exportAddress(_ listen: RequestFields) -> ExportAddress? {
    let path = listen.string("unix", required: false)
    let address = listen.string("tcp", required: false)
    switch (path, address) {
    case (let path?, nil):
      guard path.hasPrefix("/"), !path.hasSuffix("/"), path.utf8.count <= UnixSocket.longestPath else {
        listen.refuse(
          "unix", "must be an absolute path for a socket, of at most \(UnixSocket.longestPath) bytes")
        return nil
      }
      return .unix(path: path)
    case (nil, let text?):
      let parsed = ExportAddress(tcp: text)
      if parsed == nil {
        listen.refuse("tcp", "must be ADDRESS:PORT, [IPv6]:PORT or localhost:PORT, with a port from 1 to 65535")
      }
      return parsed
    case (nil, nil), (_?, _?):
      refuse("listen", "must have either 'unix' or 'tcp'")
      return nil
    }
  }
}

extension ExportAddress {
  /// HOST:PORT; nil if `text` isn't that, or if the host is neither a numeric address nor localhost: a name may mean
  /// another address tomorrow. An address that can be written in several ways becomes the one that inet_ntop writes,
  /// so that exports at the same address are known to share it.
  init?(tcp text: String) {
    guard let parsed = HostAndPort(text), let port = parsed.port, port > 0, parsed.host.isFixed else { return nil }
    self = .tcp(host: parsed.host.text, port: port)
  }
}
