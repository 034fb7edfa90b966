/// A stretch of a stored backup that is asked about.
package struct StoredExtentQuery: Hashable, Sendable, Codable {
  package var offset: UInt64
  /// Nil: to the end.
  package var length: UInt64?
  /// Items of one page.
  package var limit: Int

  package init(offset: UInt64 = 0, length: UInt64? = nil, limit: Int) {
    self.offset = offset
    self.length = length
    self.limit = limit
  }
}

/// A page of where two backups differ.
package struct DifferencePage: Hashable, Sendable, Codable {
  /// In bytes; whole grains of 64 KiB, or what of one there is at the end.
  package struct Item: Hashable, Sendable, Codable {
    package var offset: UInt64
    package var length: UInt64

    package init(offset: UInt64, length: UInt64) {
      self.offset = offset
      self.length = length
    }
  }

  package var items: [Item]
  /// Where the next page starts; nil at the end.
  package var nextOffset: UInt64?

  package init(items: [Item], nextOffset: UInt64?) {
    self.items = items
    self.nextOffset = nextOffset
  }
}
