import BlockCore
import BlockTesting
import Testing

@testable import Qcow2

@Suite struct HeaderRewriteTests {
  /// Headers of all kinds become others: after any step, and any part of one, the file has the old header, the new
  /// one, or one that says what either of them says.
  @Test func everyStateOnTheWayIsAWholeHeader() throws {
    var bridges = 0
    for seed in 1...UInt64(300 * TestEffort.factor) {
      var random = SeededRandom(seed: seed)
      let old = Self.header(&random)
      var new = old
      Self.change(&new, &random)
      guard let encoded = try? old.encoded() else { continue }
      let cluster = Int(old.clusterByteCount)
      var file = encoded + [UInt8](repeating: 0, count: cluster - encoded.count)
      let area = Array(file[..<((encoded.count + 511) / 512 * 512)])
      guard let rewrite = try? HeaderRewrite(from: area, to: new) else {
        #expect(old.clusterByteCount <= 4096, "\(random)")
        continue
      }
      if rewrite.steps.count > 2 { bridges += 1 }
      for (number, step) in rewrite.steps.enumerated() {
        for _ in 0..<4 {
          var torn = file
          for start in stride(from: 0, to: step.bytes.count, by: 512) where random.oneIn(2) {
            torn.replaceSubrange(step.offset + start..<step.offset + start + 512, with: step.bytes[start..<start + 512])
          }
          let found = try Qcow2Header(decoding: torn.span.bytes)
          #expect([Self.meaning(old), Self.meaning(new)].contains(Self.meaning(found)), "\(random), step \(number)")
        }
        file.replaceSubrange(step.offset..<step.offset + step.bytes.count, with: step.bytes)
      }
      let found = try Qcow2Header(decoding: file.span.bytes)
      #expect(found.extensions == rewrite.value.extensions, "\(random)")
      #expect(Self.meaning(found) == Self.meaning(new), "\(random)")
      #expect(Array(file[..<rewrite.area.count]) == rewrite.area, "\(random)")
      #expect(!found.extensions.contains { $0.type == HeaderExtension.Kind.bridge }, "\(random)")
    }
    #expect(bridges > 30)
  }

  /// What counts of a header: neither the order of extensions nor names of features.
  private static func meaning(_ header: Qcow2Header) -> Qcow2Header {
    var header = header
    header.extensions.removeAll {
      $0.type == HeaderExtension.Kind.featureNames || $0.type == HeaderExtension.Kind.bridge
    }
    header.extensions.sort { $0.type < $1.type }
    header.additionalFields = []
    return header
  }

  private static func header(_ random: inout SeededRandom) -> Qcow2Header {
    var header = Qcow2Header()
    header.clusterBits = [9, 10, 11, 12, 12, 16, 21][random.below(7)]
    header.virtualByteCount = UInt64(random.below(1000)) * 512
    header.refcountTableClusterCount = 1
    if random.oneIn(2) {
      header.backingName = random.bytes(1 + random.below(random.oneIn(3) ? 900 : 60))
      header.extensions.append(HeaderExtension(type: HeaderExtension.Kind.backingFormat, contents: Array("raw".utf8)))
    }
    if !random.oneIn(4) {
      header.extensions.append(
        HeaderExtension(type: HeaderExtension.Kind.featureNames, contents: FeatureName.encode(FeatureName.known)))
    }
    if random.oneIn(2) {
      header.extensions.append(HeaderExtension(type: HeaderExtension.Kind.bitmaps, contents: random.bytes(24)))
      header.autoclear.insert(.bitmaps)
    }
    for number in 0..<random.below(3) {
      header.extensions.append(
        HeaderExtension(type: 0x100 + UInt32(number), contents: random.bytes(random.below(random.oneIn(3) ? 800 : 40))))
    }
    return header
  }

  private static func change(_ header: inout Qcow2Header, _ random: inout SeededRandom) {
    let bitmaps = HeaderExtension(type: HeaderExtension.Kind.bitmaps, contents: random.bytes(24))
    let place = header.extensions.firstIndex { $0.type == bitmaps.type }
    if let place, random.oneIn(3) {
      header.extensions.remove(at: place)
      header.autoclear.remove(.bitmaps)
    } else if let place {
      header.extensions[place] = bitmaps
    } else {
      header.extensions.append(bitmaps)
      header.autoclear.insert(.bitmaps)
    }
    if random.oneIn(3) { header.virtualByteCount += 512 }
    if random.oneIn(3) {
      header.extensions.append(
        HeaderExtension(type: HeaderExtension.Kind.trackingMark, contents: random.bytes(48)))
    }
  }
}
