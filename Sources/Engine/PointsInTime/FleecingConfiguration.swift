import BlockFilters

/// Where the bytes are kept that a guest changes while its image is backed up.
package struct FleecingConfiguration: Sendable {
  /// A folder on local storage, for temps without a name. Absolute, made where it isn't there; nil: memory only.
  package var folder: String?
  /// What all temps may take there together.
  package var tempByteCount: UInt64
  /// Memory for all images together, of which each may take an equal share.
  package var memoryByteCount: Int
  /// How long a guest's write waits for copying aside before the point in time is given up instead.
  package var guestWriteTimeout: Duration

  package static let defaultTempByteCount: UInt64 = 10 << 30
  package static let defaultMemoryByteCount = 64 << 20
  package static let defaultGuestWriteTimeout = Duration.seconds(2)

  package init(
    folder: String? = nil, tempByteCount: UInt64 = Self.defaultTempByteCount,
    memoryByteCount: Int = Self.defaultMemoryByteCount, guestWriteTimeout: Duration = Self.defaultGuestWriteTimeout
  ) {
    self.folder = folder
    self.tempByteCount = tempByteCount
    self.memoryByteCount = memoryByteCount
    self.guestWriteTimeout = guestWriteTimeout
  }
}
