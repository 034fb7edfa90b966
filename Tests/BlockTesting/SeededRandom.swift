/// Numbers that look random and come back the same for the same seed (SplitMix64, Steele et al. 2014).
///
/// `description` names the seed that it was made with: put it into every message of a test that draws from it.
package struct SeededRandom: RandomNumberGenerator, Sendable, CustomStringConvertible {
  package let seed: UInt64
  private var state: UInt64

  package init(seed: UInt64) {
    self.seed = seed
    state = seed
  }

  package var description: String { "seed \(seed)" }

  package mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var mixed = state
    mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
    return mixed ^ (mixed >> 31)
  }

  /// A number in `0..<bound`, almost evenly; cheaper than `Int.random` where no test depends on the difference.
  package mutating func below(_ bound: Int) -> Int {
    Int(next() % UInt64(bound))
  }

  /// True once in `count` times.
  package mutating func oneIn(_ count: Int) -> Bool { below(count) == 0 }

  /// `count` bytes without any pattern.
  package mutating func bytes(_ count: Int) -> [UInt8] {
    // The standard library would write to its shared empty array, which ThreadSanitizer reports.
    guard count > 0 else { return [] }
    return [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
      let raw = UnsafeMutableRawBufferPointer(buffer)
      var position = 0
      while position + 8 <= count {
        raw.storeBytes(of: next(), toByteOffset: position, as: UInt64.self)
        position += 8
      }
      while position < count {
        raw[position] = UInt8(truncatingIfNeeded: next())
        position += 1
      }
      initialized = count
    }
  }

  /// A range inside `0..<byteCount` of whole `alignment` units, at least one and at most `maximum` bytes long.
  /// Both ends are often on or just beside a multiple of `block`, where the errors live.
  package mutating func range(
    within byteCount: UInt64, alignment: Int, maximum: Int, near block: Int
  ) -> Range<UInt64> {
    let unit = UInt64(alignment)
    let units = byteCount / unit
    var start = next() % units
    if !oneIn(3) {
      let blockUnits = max(1, UInt64(block) / unit)
      start = start / blockUnits * blockUnits
      if oneIn(2), start > 0 { start -= 1 } else if oneIn(2), start + 1 < units { start += 1 }
    }
    let longest = min(units - start, max(1, UInt64(maximum) / unit))
    let length = oneIn(4) ? 1 : 1 + next() % longest
    return start * unit..<(start + min(length, longest)) * unit
  }
}
