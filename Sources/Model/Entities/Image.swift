import Foundation

/// The disk image of a virtual machine that Cobweb looks after.
package struct Image: Hashable, Sendable, Codable {
  package enum State: String, Sendable, Codable, CaseIterable {
    /// Registered and not open here: a guest may use it by itself, or it lies still.
    case detached
    /// Opened read-write here and served to a guest.
    case attached
    /// Its file or device couldn't be opened the last time somebody looked.
    case unavailable
  }

  package let id: ImageID
  package var name: ResourceName
  package var source: ImageSource
  package var format: DiskFormat
  /// Bytes the guest sees.
  package var virtualSize: UInt64
  package var state: State
  package var labels: [String: String]
  package var managedBy: ManagedBy
  package var createdAt: Date
  /// Grows by one with each stored change; the ETag is made of it.
  package var revision: Int

  package init(
    id: ImageID = ImageID(), name: ResourceName, source: ImageSource, format: DiskFormat, virtualSize: UInt64,
    state: State = .detached, labels: [String: String] = [:], managedBy: ManagedBy = .api, createdAt: Date,
    revision: Int = 1
  ) {
    self.id = id
    self.name = name
    self.source = source
    self.format = format
    self.virtualSize = virtualSize
    self.state = state
    self.labels = labels
    self.managedBy = managedBy
    self.createdAt = createdAt
    self.revision = revision
  }

  /// What the engine needs to open it.
  package var location: ImageLocation { ImageLocation(source: source, format: format) }
}

/// Where an image's bytes are. Paths are absolute.
package enum ImageSource: Hashable, Sendable, Codable {
  case file(path: String)
  case device(path: String)

  package var path: String {
    switch self {
    case .file(let path), .device(let path): path
    }
  }
}

/// Stated at registration, never guessed: a guest can write any header into a raw disk.
package enum DiskFormat: String, Sendable, Codable, CaseIterable {
  case raw, qcow2
}

/// A source together with how to read it.
package struct ImageLocation: Hashable, Sendable, Codable {
  package var source: ImageSource
  package var format: DiskFormat

  package init(source: ImageSource, format: DiskFormat) {
    self.source = source
    self.format = format
  }
}

/// Who declared a resource: what the config file holds can't be changed over REST.
package enum ManagedBy: String, Sendable, Codable, CaseIterable {
  case api, config
}
