/// Serve something to NBD clients until it is withdrawn.
package struct ExportOrder: Hashable, Sendable, Codable {
  package enum Source: Hashable, Sendable, Codable {
    /// An image that is attached.
    case attachedImage(ImageID)
    /// An image that isn't: opened read-only for this export, with the locks of a reader.
    case image(ImageLocation)
    /// A stored backup with what it builds on.
    case backup(StoredBackupLocation)
  }

  /// A backup from which clients see what changed.
  package struct Difference: Hashable, Sendable, Codable {
    package var backup: StoredBackupLocation
    /// What clients call it.
    package var exportName: String

    package init(backup: StoredBackupLocation, exportName: String) {
      self.backup = backup
      self.exportName = exportName
    }
  }

  package var export: ExportID
  package var name: ResourceName
  /// For people, in listings.
  package var description: String
  package var source: Source
  package var isReadOnly: Bool
  package var listen: ExportAddress
  package var tls: ExportTLS?
  package var offersAllocationDepth: Bool
  /// Of an image only.
  package var bitmaps: [ExportedBitmap]
  /// Of a backup only: from others of its image.
  package var changedSince: [Difference]
  /// It was served before: bitmaps that are gone, or unusable, keep nobody from the disk. Clients find all of it dirty.
  package var isServedAgain: Bool

  package init(
    export: ExportID, name: ResourceName, description: String, source: Source, isReadOnly: Bool,
    listen: ExportAddress, tls: ExportTLS?, offersAllocationDepth: Bool, bitmaps: [ExportedBitmap] = [],
    changedSince: [Difference] = [], isServedAgain: Bool = false
  ) {
    self.export = export
    self.name = name
    self.description = description
    self.source = source
    self.isReadOnly = isReadOnly
    self.listen = listen
    self.tls = tls
    self.offersAllocationDepth = offersAllocationDepth
    self.bitmaps = bitmaps
    self.changedSince = changedSince
    self.isServedAgain = isServedAgain
  }
}

/// How an export is taken away.
package enum ExportRemoval: String, Sendable, Codable, CaseIterable {
  /// Only if no client uses it.
  case safe
  /// Clients are cut off, their requests in flight first.
  case hard
}

/// What an export does right now, and what it has done since it was opened.
package struct ExportActivity: Hashable, Sendable, Codable {
  /// Requests of one sort.
  package struct Requests: Hashable, Sendable, Codable {
    package var count: UInt64
    /// Refused, or failed by the storage.
    package var failed: UInt64
    /// Bytes of the export that they were about, successful ones only.
    package var bytes: UInt64
    /// Nil before the first.
    package var latency: Latency?

    package init(count: UInt64 = 0, failed: UInt64 = 0, bytes: UInt64 = 0, latency: Latency? = nil) {
      self.count = count
      self.failed = failed
      self.bytes = bytes
      self.latency = latency
    }
  }

  /// Microseconds within which half, 99 % and 99.9 % of the requests were answered, rounded up.
  package struct Latency: Hashable, Sendable, Codable {
    package var p50: UInt64
    package var p99: UInt64
    package var p999: UInt64

    package init(p50: UInt64, p99: UInt64, p999: UInt64) {
      self.p50 = p50
      self.p99 = p99
      self.p999 = p999
    }
  }

  /// Connections now.
  package var clients: Int
  package var reads: Requests
  /// Writes, zeroes, and trims.
  package var writes: Requests
  package var flushes: Requests
  /// Block status, and what warms a cache.
  package var others: Requests

  package init(
    clients: Int = 0, reads: Requests = Requests(), writes: Requests = Requests(), flushes: Requests = Requests(),
    others: Requests = Requests()
  ) {
    self.clients = clients
    self.reads = reads
    self.writes = writes
    self.flushes = flushes
    self.others = others
  }
}
