import Bytes
import Foundation

/// An NBD export: an image or a stored backup that clients reach under a name at an address.
///
/// It is kept in the catalog and comes back after a restart.
package struct Export: Hashable, Sendable, Codable {
  package enum State: String, Sendable, Codable, CaseIterable {
    /// Clients can use it.
    case active
    /// It couldn't be opened, see ``Export/failure``; it is opened when its image is attached, or at the next start.
    case unavailable
  }

  package let id: ExportID
  /// Also the name that NBD clients ask for.
  package var name: ResourceName
  package var source: ExportSource
  package var isReadOnly: Bool
  package var listen: ExportAddress
  package var tls: ExportTLS?
  /// Whether `qemu:allocation-depth` is offered beside `base:allocation`.
  package var offersAllocationDepth: Bool
  /// Each as `qemu:dirty-bitmap:NAME`.
  package var bitmaps: [ExportedBitmap]
  /// Of a backup: what changed in it since others of its image, each as `qemu:dirty-bitmap:NAME`.
  package var changedSince: [ExportedDifference]
  package var state: State
  /// Why it is unavailable, in words.
  package var failure: String?
  package var createdAt: Date
  package var revision: Int

  package init(
    id: ExportID = ExportID(), name: ResourceName, source: ExportSource, isReadOnly: Bool, listen: ExportAddress,
    tls: ExportTLS? = nil, offersAllocationDepth: Bool = false, bitmaps: [ExportedBitmap] = [],
    changedSince: [ExportedDifference] = [], state: State = .active, failure: String? = nil, createdAt: Date,
    revision: Int = 1
  ) {
    self.id = id
    self.name = name
    self.source = source
    self.isReadOnly = isReadOnly
    self.listen = listen
    self.tls = tls
    self.offersAllocationDepth = offersAllocationDepth
    self.bitmaps = bitmaps
    self.changedSince = changedSince
    self.state = state
    self.failure = failure
    self.createdAt = createdAt
    self.revision = revision
  }

  /// What a client is given to connect, after the NBD URI specification.
  package var uri: String { listen.uri(of: name.text, usesTLS: tls != nil) }
}

/// A bitmap of the image that clients of an export see.
package struct ExportedBitmap: Hashable, Sendable, Codable {
  package var bitmap: BitmapName
  /// What clients call it.
  package var exportName: String

  package init(bitmap: BitmapName, exportName: String) {
    self.bitmap = bitmap
    self.exportName = exportName
  }

  /// Bytes that ``exportName`` may have: with `qemu:dirty-bitmap:` NBD takes no longer text.
  package static let longestExportName = 4096 - "qemu:dirty-bitmap:".utf8.count
  /// Bitmaps that one export may show: clients ask for all of them in one message.
  package static let maximumCount = 64
}

/// A backup from which clients of another one's export see what changed.
package struct ExportedDifference: Hashable, Sendable, Codable {
  package var backup: BackupID
  /// What clients call it.
  package var exportName: String

  package init(backup: BackupID, exportName: String) {
    self.backup = backup
    self.exportName = exportName
  }
}

package enum ExportSource: Hashable, Sendable, Codable {
  case image(ImageID)
  /// The guest's disk as it was at the backup's point in time, read-only.
  case backup(BackupID)
}

/// Where clients connect. Exports at the same address share it.
package enum ExportAddress: Hashable, Sendable, Codable {
  /// Absolute.
  case unix(path: String)
  /// A numeric address without brackets, or "localhost"; a port above 0.
  case tcp(host: String, port: UInt16)

  /// Whether only this machine reaches it.
  package var isLocal: Bool {
    switch self {
    case .unix: true
    case .tcp(let host, _): NetworkHost(withoutBrackets: host).map { $0.isLoopback && $0.text == host } ?? false
    }
  }

  /// Where clients find the export of that name, after the NBD URI specification.
  package func uri(of exportName: String, usesTLS: Bool) -> String {
    let place: NBDURI.Place =
      switch self {
      case .unix(let path): .unix(path: path)
      case .tcp(let host, let port): .tcp(host: host, port: port)
      }
    return NBDURI(place, exportName: exportName, usesTLS: usesTLS).description
  }

  /// For a person: `unix:PATH`, or `HOST:PORT`.
  package var text: String {
    switch self {
    case .unix(let path): "unix:\(path)"
    case .tcp(let host, let port): HostAndPort.text(host: host, port: port)
    }
  }
}

/// How clients of an address prove who they are; both ends speak TLS then, and no client gets in without.
package enum ExportTLS: String, Sendable, Codable, CaseIterable {
  /// A certificate signed by the configured authority.
  case x509
  /// One of the configured pre-shared keys.
  case psk
}
