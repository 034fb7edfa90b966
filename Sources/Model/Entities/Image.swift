import Foundation

/// The disk image of a virtual machine that Cobweb looks after.
package struct Image: Hashable, Sendable, Codable {
  package enum State: String, Sendable, Codable, CaseIterable {
    /// Registered and not open here: a guest may use it by itself, or it lies still.
    case detached
    /// Open read-write here, with the locks of a writer, to be served to a guest.
    case attached
    /// It couldn't be opened at the last probe. If it has an ``Image/attachment``, it is to be attached.
    case unavailable
  }

  /// Its bytes are a mixture of what it held and of what a restore wrote over that.
  package struct Damage: Hashable, Sendable, Codable {
    package var since: Date
    package var why: String
    /// The job that left it so.
    package var job: JobID

    package init(since: Date, why: String, job: JobID) {
      self.since = since
      self.why = why
      self.job = job
    }
  }

  package let id: ImageID
  package var name: ResourceName
  package var source: ImageSource
  package var format: DiskFormat
  /// Bytes the guest sees.
  package var virtualSize: UInt64
  package var state: State
  /// How it is attached, or is to be attached again once it can be opened; nil if it is detached.
  package var attachment: Attachment?
  /// Nil unless its bytes are a mixture.
  package var damage: Damage?
  /// Nothing but this server writes to it: its owner's promise, which its block devices need to have a tracker.
  package var isExclusive: Bool
  package var labels: [String: String]
  package var managedBy: ManagedBy
  package var createdAt: Date
  /// Grows by one with each stored change; the ETag is made of it.
  package var revision: Int

  package init(
    id: ImageID = ImageID(), name: ResourceName, source: ImageSource, format: DiskFormat, virtualSize: UInt64,
    state: State = .detached, attachment: Attachment? = nil, damage: Damage? = nil,
    isExclusive: Bool = false, labels: [String: String] = [:],
    managedBy: ManagedBy = .api, createdAt: Date, revision: Int = 1
  ) {
    self.id = id
    self.name = name
    self.source = source
    self.format = format
    self.virtualSize = virtualSize
    self.state = state
    self.attachment = attachment
    self.damage = damage
    self.isExclusive = isExclusive
    self.labels = labels
    self.managedBy = managedBy
    self.createdAt = createdAt
    self.revision = revision
  }

  /// What the engine needs to open it.
  package var location: ImageLocation {
    ImageLocation(source: source, format: format, isExclusive: isExclusive)
  }
}

/// How an image is held open for its guest.
package struct Attachment: Hashable, Sendable, Codable {
  package enum Cause: String, Sendable, Codable, CaseIterable {
    /// A person asked for it: it stays attached until one asks for the opposite.
    case request
    /// A read-write export needed it: it is detached with the last such export.
    case export
  }

  package var cache: CacheMode
  package var cause: Cause

  package init(cache: CacheMode, cause: Cause) {
    self.cache = cache
    self.cause = cause
  }
}

/// Whether the host's page cache stands between an image and its storage.
package enum CacheMode: String, Sendable, Codable, CaseIterable {
  /// Reads and writes go past it (O_DIRECT).
  case direct
  /// They go through it; what a guest flushes is durable all the same.
  case writeback
}

/// Where an image's bytes are. Paths are absolute.
package enum ImageSource: Hashable, Sendable, Codable {
  case file(path: String)
  case device(path: String)
  /// An export of an NBD server among the allowed peers.
  case nbd(uri: String)

  /// What names it for a person: the path, or the URI.
  package var place: String {
    switch self {
    case .file(let path), .device(let path): path
    case .nbd(let uri): uri
    }
  }

  package var isNBD: Bool { if case .nbd = self { true } else { false } }
}

/// Stated at registration, never guessed: a guest can write any header into a raw disk.
package enum DiskFormat: String, Sendable, Codable, CaseIterable {
  case raw, qcow2
}

/// A source together with how to read it.
package struct ImageLocation: Hashable, Sendable, Codable {
  package var source: ImageSource
  package var format: DiskFormat
  /// Nothing but this server writes to it: what its owner says of block devices, whose times tell nothing.
  package var isExclusive: Bool

  package init(source: ImageSource, format: DiskFormat, isExclusive: Bool = false) {
    self.source = source
    self.format = format
    self.isExclusive = isExclusive
  }
}

/// Who declared a resource: what the config file holds can't be changed over REST.
package enum ManagedBy: String, Sendable, Codable, CaseIterable {
  case api, config
}
