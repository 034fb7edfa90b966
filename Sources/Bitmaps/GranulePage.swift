/// The bits of 65,536 granules that follow one another, in whichever form takes the least: nothing for none or all, two
/// bytes each for few, 8 KiB for many.
struct GranulePage: Sendable {
  static let bitCount = 1 << 16
  /// From so many on they are kept as bits: a list of them would take half as much, and be slower to change.
  private static let mostListed = 2048
  private static let wordCount = bitCount / 64

  private enum Form: Sendable {
    case clear
    case set
    /// In order.
    case listed([UInt16])
    /// With how many of them are set.
    case bits([UInt64], count: Int)
  }

  private var form = Form.clear

  static let allSet: GranulePage = {
    var page = GranulePage()
    page.form = .set
    return page
  }()

  var count: Int {
    switch form {
    case .clear: 0
    case .set: Self.bitCount
    case .listed(let list): list.count
    case .bits(_, let count): count
    }
  }

  var isClear: Bool { if case .clear = form { true } else { false } }
  var isSet: Bool { if case .set = form { true } else { false } }

  func contains(_ bit: Int) -> Bool {
    switch form {
    case .clear: false
    case .set: true
    case .listed(let list): Self.position(of: bit, in: list).isThere
    case .bits(let words, _): words[bit / 64] >> UInt64(bit % 64) & 1 == 1
    }
  }

  // MARK: Changes

  mutating func insert(_ range: Range<Int>) {
    if range.count == Self.bitCount { form = .set }
    switch form {
    case .set: return
    case .clear, .listed:
      if count + range.count > Self.mostListed {
        makeBits()
        insertBits(range)
      } else {
        insertListed(range)
      }
    case .bits: insertBits(range)
    }
  }

  mutating func remove(_ range: Range<Int>) {
    if range.count == Self.bitCount { form = .clear }
    switch form {
    case .clear: return
    case .listed(var list):
      form = .clear
      let (start, end) = (
        Self.position(of: range.lowerBound, in: list).index, Self.position(of: range.upperBound, in: list).index
      )
      list.removeSubrange(start..<end)
      form = list.isEmpty ? .clear : .listed(list)
    case .set, .bits:
      makeBits()
      guard case .bits(var words, var count) = form else { return }
      form = .clear
      Self.eachWord(of: range) { index, mask in
        count -= (words[index] & mask).nonzeroBitCount
        words[index] &= ~mask
      }
      form = .bits(words, count: count)
      shrink()
    }
  }

  mutating func formUnion(_ other: GranulePage) {
    switch other.form {
    case .clear: return
    case .set: form = .set
    case .listed(let list):
      for bit in list { insert(Int(bit)..<Int(bit) + 1) }
    case .bits(let others, _):
      if isSet { return }
      makeBits()
      guard case .bits(var words, _) = form else { return }
      form = .clear
      var count = 0
      for index in words.indices {
        words[index] |= others[index]
        count += words[index].nonzeroBitCount
      }
      form = count == Self.bitCount ? .set : .bits(words, count: count)
    }
  }

  /// Inserts the bits that are set in `bytes`, which stand from byte `start` of the page on, the lowest first. Those from
  /// `limit` on are ignored.
  mutating func insert(_ bytes: RawSpan, fromByte start: Int, before limit: Int) {
    if isSet { return }
    // As many bytes as begin before the limit; the last of them is cut.
    let length = min(bytes.byteCount, max(0, (limit + 7) / 8 - start))
    func byte(_ offset: Int) -> UInt8 {
      let value = bytes.unsafeLoad(fromByteOffset: offset, as: UInt8.self)
      let rest = limit - (start + offset) * 8
      return rest >= 8 ? value : value & ((1 << UInt8(rest)) - 1)
    }
    var added = 0
    for offset in 0..<length { added += byte(offset).nonzeroBitCount }
    if added == 0 { return }
    if case .bits = form {
    } else if count + added <= Self.mostListed {
      for offset in 0..<length {
        var rest = byte(offset)
        while rest != 0 {
          let bit = (start + offset) * 8 + rest.trailingZeroBitCount
          insertListed(bit..<bit + 1)
          rest &= rest - 1
        }
      }
      return
    }
    makeBits()
    guard case .bits(var words, var count) = form else { return }
    form = .clear
    for offset in 0..<length {
      let (index, shift) = ((start + offset) / 8, UInt64((start + offset) % 8 * 8))
      let new = (UInt64(byte(offset)) << shift) & ~words[index]
      words[index] |= new
      count += new.nonzeroBitCount
    }
    form = count == Self.bitCount ? .set : .bits(words, count: count)
  }

  private mutating func insertListed(_ range: Range<Int>) {
    var list: [UInt16] = []
    if case .listed(let listed) = form { list = listed }
    let start = Self.position(of: range.lowerBound, in: list)
    if range.count == 1, start.isThere { return }
    form = .clear
    let end = Self.position(of: range.upperBound, in: list).index
    list.replaceSubrange(start.index..<end, with: range.lazy.map { UInt16($0) })
    form = .listed(list)
  }

  private mutating func insertBits(_ range: Range<Int>) {
    guard case .bits(var words, var count) = form else { return }
    // Taken out, so that it isn't copied.
    form = .clear
    Self.eachWord(of: range) { index, mask in
      count += (mask & ~words[index]).nonzeroBitCount
      words[index] |= mask
    }
    form = count == Self.bitCount ? .set : .bits(words, count: count)
  }

  private mutating func makeBits() {
    switch form {
    case .bits: return
    case .clear: form = .bits([UInt64](repeating: 0, count: Self.wordCount), count: 0)
    case .set: form = .bits([UInt64](repeating: .max, count: Self.wordCount), count: Self.bitCount)
    case .listed(let list):
      var words = [UInt64](repeating: 0, count: Self.wordCount)
      for bit in list { words[Int(bit) / 64] |= 1 << UInt64(bit % 64) }
      form = .bits(words, count: list.count)
    }
  }

  /// Bits that few are left of become a list, so that a page never takes more for having held more.
  private mutating func shrink() {
    guard case .bits(let words, let count) = form, count <= Self.mostListed / 2 else { return }
    var list: [UInt16] = []
    list.reserveCapacity(count)
    for (index, word) in words.enumerated() {
      var rest = word
      while rest != 0 {
        list.append(UInt16(index * 64 + rest.trailingZeroBitCount))
        rest &= rest - 1
      }
    }
    form = count == 0 ? .clear : .listed(list)
  }

  // MARK: Search

  /// The first bit from `start` on that is set, or clear; nil if there is none in the page.
  func next(isSet wanted: Bool, from start: Int) -> Int? {
    guard start < Self.bitCount else { return nil }
    switch form {
    case .clear: return wanted ? nil : start
    case .set: return wanted ? start : nil
    case .listed(let list):
      var index = Self.position(of: start, in: list).index
      if wanted { return index < list.count ? Int(list[index]) : nil }
      var bit = start
      while index < list.count, Int(list[index]) == bit { (index, bit) = (index + 1, bit + 1) }
      return bit < Self.bitCount ? bit : nil
    case .bits(let words, _):
      var index = start / 64
      var word = (wanted ? words[index] : ~words[index]) & (.max << UInt64(start % 64))
      while word == 0 {
        index += 1
        guard index < words.count else { return nil }
        word = wanted ? words[index] : ~words[index]
      }
      return index * 64 + word.trailingZeroBitCount
    }
  }

  /// 64 bits, the first of which is a multiple of 64.
  func word(_ index: Int) -> UInt64 {
    switch form {
    case .clear: return 0
    case .set: return .max
    case .bits(let words, _): return words[index]
    case .listed(let list):
      var word: UInt64 = 0
      var position = Self.position(of: index * 64, in: list).index
      while position < list.count, Int(list[position]) < index * 64 + 64 {
        word |= 1 << UInt64(Int(list[position]) - index * 64)
        position += 1
      }
      return word
    }
  }

  /// Where the bit is in the list, or would be.
  private static func position(of bit: Int, in list: [UInt16]) -> (index: Int, isThere: Bool) {
    var (low, high) = (0, list.count)
    while low < high {
      let middle = (low + high) / 2
      if Int(list[middle]) < bit { low = middle + 1 } else { high = middle }
    }
    return (low, low < list.count && Int(list[low]) == bit)
  }

  private static func eachWord(of range: Range<Int>, _ body: (Int, UInt64) -> Void) {
    guard !range.isEmpty else { return }
    let (first, last) = (range.lowerBound / 64, (range.upperBound - 1) / 64)
    for index in first...last {
      var mask = UInt64.max
      if index == first { mask &= .max << UInt64(range.lowerBound % 64) }
      if index == last { mask &= .max >> UInt64(63 - (range.upperBound - 1) % 64) }
      body(index, mask)
    }
  }
}

extension GranulePage: Equatable {
  /// The same bits, whatever their form.
  static func == (left: GranulePage, right: GranulePage) -> Bool {
    guard left.count == right.count else { return false }
    if left.isClear || left.isSet { return true }
    return (0..<wordCount).allSatisfy { left.word($0) == right.word($0) }
  }
}
