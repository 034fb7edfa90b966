extension Qcow2Image.OpenOptions {
  /// Table caches of the layers below the first, in bytes: a chain may have many.
  private static let backingMappingByteCount = 1 << 20
  private static let backingRefcountByteCount = 256 << 10

  /// Options for one layer of a chain, 0 being the image itself.
  package init(layer depth: Int, isReadOnly: Bool, tableByteCountAbove: Int = 0) {
    self.init(isReadOnly: isReadOnly, depth: depth)
    self.tableByteCountAbove = tableByteCountAbove
    guard depth > 0 else { return }
    mappingCacheByteCount = Self.backingMappingByteCount
    refcountCacheByteCount = Self.backingRefcountByteCount
  }
}
