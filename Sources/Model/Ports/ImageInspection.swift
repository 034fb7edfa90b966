import Foundation

/// What the header at the start of a source looks like. A guest can write any header into a raw disk.
package struct FormatSuggestion: Hashable, Sendable, Codable {
  package var format: DiskFormat
  /// E.g. "it starts with a qcow2 header, version 3".
  package var why: String

  package init(format: DiskFormat, why: String) {
    self.format = format
    self.why = why
  }
}

/// Everything that an image's own metadata tells.
package struct ImageInspection: Hashable, Sendable, Codable {
  package struct Layer: Hashable, Sendable, Codable {
    package var path: String
    package var format: DiskFormat
    package var virtualSize: UInt64
    /// Its own file, and its external data file if it has one.
    package var files: [FileIdentity]

    package init(path: String, format: DiskFormat, virtualSize: UInt64, files: [FileIdentity] = []) {
      self.path = path
      self.format = format
      self.virtualSize = virtualSize
      self.files = files
    }
  }

  /// An internal snapshot of a qcow2 image.
  package struct Snapshot: Hashable, Sendable, Codable {
    package var id: String
    package var name: String
    package var createdAt: Date
    package var virtualSize: UInt64
    package var vmStateSize: UInt64

    package init(id: String, name: String, createdAt: Date, virtualSize: UInt64, vmStateSize: UInt64) {
      self.id = id
      self.name = name
      self.createdAt = createdAt
      self.virtualSize = virtualSize
      self.vmStateSize = vmStateSize
    }
  }

  package struct Bitmap: Hashable, Sendable, Codable {
    package var name: String
    /// Bytes that one bit stands for.
    package var granularity: UInt64
    package var enabled: Bool
    /// Left behind by a crash: it misses changes.
    package var inconsistent: Bool

    package init(name: String, granularity: UInt64, enabled: Bool, inconsistent: Bool) {
      self.name = name
      self.granularity = granularity
      self.enabled = enabled
      self.inconsistent = inconsistent
    }
  }

  /// A tracker of ours, wherever its bitmap is kept.
  package struct Tracker: Hashable, Sendable, Codable {
    package var name: TrackerBitmapName
    /// It counts from a checkpoint.
    package var enabled: Bool
    /// It misses changes, or may do so.
    package var inconsistent: Bool

    package init(name: TrackerBitmapName, enabled: Bool, inconsistent: Bool) {
      self.name = name
      self.enabled = enabled
      self.inconsistent = inconsistent
    }
  }

  /// A permission on the image file that some process holds, or doesn't let others have.
  package struct Lock: Hashable, Sendable, Codable {
    package var permission: String
    package var held: Bool
    package var unshared: Bool

    package init(permission: String, held: Bool, unshared: Bool) {
      self.permission = permission
      self.held = held
      self.unshared = unshared
    }
  }

  package var format: DiskFormat
  /// Bytes the guest sees.
  package var virtualSize: UInt64
  /// Bytes that the file takes on its storage.
  package var storedSize: UInt64
  /// The image's own file, and its external data file if it has one; empty for an NBD export.
  package var files: [FileIdentity]
  /// The rest is of qcow2 images only; nil or empty for raw ones.
  package var version: Int?
  package var clusterSize: Int?
  package var refcountBits: Int?
  package var compressionType: String?
  package var features: [String]
  /// The files below this image, nearest first.
  package var backingChain: [Layer]
  package var snapshots: [Snapshot]
  package var bitmaps: [Bitmap]
  /// Those whose bitmaps are kept beside the server's state, for an image that has no place for them.
  package var sidecars: [Tracker]
  package var locks: [Lock]
  /// There are more snapshots or bitmaps than are listed, or their names are longer.
  package var truncated: Bool

  package init(
    format: DiskFormat, virtualSize: UInt64, storedSize: UInt64, files: [FileIdentity] = [], version: Int? = nil,
    clusterSize: Int? = nil, refcountBits: Int? = nil, compressionType: String? = nil, features: [String] = [],
    backingChain: [Layer] = [],
    snapshots: [Snapshot] = [], bitmaps: [Bitmap] = [], sidecars: [Tracker] = [], locks: [Lock] = [],
    truncated: Bool = false
  ) {
    self.format = format
    self.virtualSize = virtualSize
    self.storedSize = storedSize
    self.files = files
    self.version = version
    self.clusterSize = clusterSize
    self.refcountBits = refcountBits
    self.compressionType = compressionType
    self.features = features
    self.backingChain = backingChain
    self.snapshots = snapshots
    self.bitmaps = bitmaps
    self.sidecars = sidecars
    self.locks = locks
    self.truncated = truncated
  }
}

/// Part of an image's map of data and zeroes.
package struct ExtentPage: Hashable, Sendable, Codable {
  package struct Item: Hashable, Sendable, Codable {
    package var offset: UInt64
    package var length: UInt64
    /// Some layer stores something here.
    package var data: Bool
    /// Reads as zeroes for certain.
    package var zero: Bool

    package init(offset: UInt64, length: UInt64, data: Bool, zero: Bool) {
      self.offset = offset
      self.length = length
      self.data = data
      self.zero = zero
    }
  }

  package var items: [Item]
  /// Where the next page starts; nil at the end.
  package var nextOffset: UInt64?
  /// Changes whenever the image's map may have changed.
  package var generation: String

  package init(items: [Item], nextOffset: UInt64?, generation: String) {
    self.items = items
    self.nextOffset = nextOffset
    self.generation = generation
  }
}
