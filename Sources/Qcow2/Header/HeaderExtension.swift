/// One header extension as it stands in the file: type and contents, whether understood or not.
package struct HeaderExtension: Hashable, Sendable {
  /// The types that this implementation knows (qcow2.txt, "Header extensions").
  package enum Kind {
    package static let end: UInt32 = 0
    package static let backingFormat: UInt32 = 0xe279_2aca
    package static let featureNames: UInt32 = 0x6803_f857
    package static let bitmaps: UInt32 = 0x2385_2875
    package static let encryption: UInt32 = 0x0537_be77
    package static let externalDataFile: UInt32 = 0x4441_5441
    /// Ours, "Cwtm": see ``TrackingMark``.
    static let trackingMark: UInt32 = 0x4377_746d
    /// Ours, "Cwid": see ``Qcow2Image/CreateOptions/identity``.
    static let identity: UInt32 = 0x4377_6964
    /// Ours, "Cwbr": what lies between two parts of a header that is being changed. See ``HeaderRewrite``.
    static let bridge: UInt32 = 0x4377_6272
  }

  package var type: UInt32
  package var contents: [UInt8]

  package init(type: UInt32, contents: [UInt8]) {
    self.type = type
    self.contents = contents
  }

  /// Bytes in the file: type, length, contents, padding to a multiple of 8.
  var encodedByteCount: Int { 8 + (contents.count + 7) / 8 * 8 }
}

/// A bit of one of the three feature fields, with the name that the image's feature-name table gives it.
package struct FeatureName: Hashable, Sendable {
  package enum Field: UInt8, Hashable, Sendable { case incompatible = 0, compatible, autoclear }

  package var field: Field
  package var bit: Int
  package var name: String

  package init(_ field: Field, _ bit: Int, _ name: String) {
    self.field = field
    self.bit = bit
    self.name = name
  }

  /// Bytes per entry in the table.
  static let encodedByteCount = 48
  /// So many entries of a table are read: one for each bit that there is.
  static let maximumCount = 3 * 64

  /// What this implementation writes into new images.
  static let known = [
    FeatureName(.incompatible, 0, "dirty bit"),
    FeatureName(.incompatible, 1, "corrupt bit"),
    FeatureName(.incompatible, 2, "external data file"),
    FeatureName(.incompatible, 3, "compression type"),
    FeatureName(.incompatible, 4, "extended L2 entries"),
    FeatureName(.compatible, 0, "lazy refcounts"),
    FeatureName(.autoclear, 0, "bitmaps"),
    FeatureName(.autoclear, 1, "raw external data"),
  ]

  /// The entries of a feature-name table; what makes no sense is skipped, as names only serve messages.
  static func table(_ contents: [UInt8]) -> [FeatureName] {
    let end = min(contents.count / encodedByteCount, maximumCount) * encodedByteCount
    return stride(from: 0, to: end, by: encodedByteCount).compactMap { start in
      guard let field = Field(rawValue: contents[start]), contents[start + 1] < 64 else { return nil }
      let name = contents[(start + 2)..<(start + encodedByteCount)].prefix { $0 != 0 }
      return FeatureName(field, Int(contents[start + 1]), String(decoding: name, as: UTF8.self))
    }
  }

  static func encode(_ names: [FeatureName]) -> [UInt8] {
    names.flatMap { feature in
      let name = Array(feature.name.utf8.prefix(encodedByteCount - 2))
      let padding = [UInt8](repeating: 0, count: encodedByteCount - 2 - name.count)
      return [feature.field.rawValue, UInt8(feature.bit)] + name + padding
    }
  }
}
