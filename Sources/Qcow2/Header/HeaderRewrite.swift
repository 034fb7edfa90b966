import BlockCore
import Bytes

/// How a header in the file becomes another one, so that every state on the way is a whole header (qcow2.txt,
/// "Header").
///
/// A sector is written whole or not at all, and sectors of one write in any order. So what changes in one sector is one
/// step, and so is what nothing refers to yet. Where more changes, the header goes over a bridge:
/// 1. What shall follow the first sector is written behind all that the old header, or the new one, takes.
/// 2. The first sector becomes the new one, up to an extension of a type of its own that reaches to there.
/// 3. The rest of the new header is written to its place: it lies inside of that extension.
/// 4. The first sector becomes the new one.
/// Each step is durable before the next.
///
/// Extensions that change come to lie in the first sector that way, beside the fields that change with them.
struct HeaderRewrite: Hashable {
  struct Step: Hashable {
    var offset: Int
    /// Whole sectors.
    var bytes: [UInt8]
  }

  private static let sectorByteCount = HeaderOnDisk.sectorByteCount
  /// The types that go first.
  private static let leading = [HeaderExtension.Kind.bitmaps, HeaderExtension.Kind.trackingMark]

  /// As it will be read from the file.
  private(set) var value: Qcow2Header
  private(set) var steps: [Step]
  /// The header's bytes in the file afterwards, in whole sectors.
  private(set) var area: [UInt8]

  /// - Parameters:
  ///   - area: the header's bytes in the file, in whole sectors.
  ///   - wanted: names of features are left out where there is no room for them.
  /// - Throws: `noSpace` if there is no room for the new header, or none for the bridge to it.
  init(from area: [UInt8], to wanted: Qcow2Header) throws(BlockError) {
    var ordered = wanted
    ordered.extensions.removeAll { $0.type == HeaderExtension.Kind.bridge }
    let inPlace = ordered
    ordered.extensions =
      ordered.extensions.filter { Self.leading.contains($0.type) }
      + ordered.extensions.filter { !Self.leading.contains($0.type) }
    var nameless = ordered
    nameless.extensions.removeAll { $0.type == HeaderExtension.Kind.featureNames }
    let candidates = [
      Self.inOneSector(from: area, to: inPlace), Self.inOneSector(from: area, to: ordered),
      Self.overBridge(from: area, to: ordered), Self.inOneSector(from: area, to: nameless),
      Self.overBridge(from: area, to: nameless),
    ]
    guard let first = candidates.lazy.compactMap({ $0 }).first else {
      throw BlockError(.noSpace, .write, cause: "the image's first cluster has no room for another header extension")
    }
    self = first
  }

  private init(value: Qcow2Header, steps: [Step], area: [UInt8]) {
    self.value = value
    self.steps = steps
    self.area = area
  }

  /// The header's bytes in whole sectors.
  private static func sectors(_ bytes: [UInt8]) -> [UInt8] {
    bytes + [UInt8](repeating: 0, count: (sectorByteCount - bytes.count % sectorByteCount) % sectorByteCount)
  }

  /// Nil if more than one sector changes that the old header, or the new one, relies on.
  private static func inOneSector(from old: [UInt8], to value: Qcow2Header) -> HeaderRewrite? {
    guard let encoded = try? value.encoded() else { return nil }
    let new = sectors(encoded)
    let changed = stride(from: 0, to: new.count, by: sectorByteCount).filter { start in
      start >= old.count || new[start..<start + sectorByteCount] != old[start..<start + sectorByteCount]
    }
    // Behind the old header's end nothing is relied on.
    let unused = changed.filter { $0 >= old.count }
    guard changed.count - unused.count <= 1 else { return nil }
    let steps = (unused + changed.filter { $0 < old.count }).map {
      Step(offset: $0, bytes: Array(new[$0..<$0 + sectorByteCount]))
    }
    return HeaderRewrite(value: value, steps: steps, area: new)
  }

  private static func overBridge(from old: [UInt8], to value: Qcow2Header) -> HeaderRewrite? {
    guard let encoded = try? value.encoded() else { return nil }
    let new = sectors(encoded)
    var front = value
    front.extensions = value.extensions.filter { leading.contains($0.type) }
    front.backingName = nil
    // Without the mark of the end.
    guard let start = (try? front.encoded()).map({ $0.count - 8 }), start + 8 <= sectorByteCount else { return nil }
    let rest = Array(encoded[start...])
    let place = max(old.count, new.count)
    guard place + rest.count <= Int(value.clusterByteCount) else { return nil }
    var bridge = Array(encoded[..<start])
    bridge.append(bigEndian: HeaderExtension.Kind.bridge)
    bridge.append(bigEndian: UInt32(place - start - 8))
    if value.backingName?.isEmpty == false {
      var offset: [UInt8] = []
      offset.append(bigEndian: UInt64(encoded.count - (value.backingName?.count ?? 0) - start + place))
      bridge.replaceSubrange(8..<16, with: offset)
    }
    var steps = [Step(offset: place, bytes: sectors(rest)), Step(offset: 0, bytes: sectors(bridge))]
    if new.count > sectorByteCount {
      steps.append(Step(offset: sectorByteCount, bytes: Array(new[sectorByteCount...])))
    }
    steps.append(Step(offset: 0, bytes: Array(new[..<sectorByteCount])))
    return HeaderRewrite(value: value, steps: steps, area: new)
  }
}
