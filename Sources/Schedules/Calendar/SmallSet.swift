/// A set of numbers from 0 to 63.
package struct SmallSet: Hashable, Sendable {
  package private(set) var bits: UInt64

  package init(bits: UInt64 = 0) { self.bits = bits }

  package init(_ numbers: some Sequence<Int>) {
    bits = 0
    for number in numbers { insert(number) }
  }

  package mutating func insert(_ number: Int) { bits |= 1 << UInt64(number) }

  package func contains(_ number: Int) -> Bool { bits >> UInt64(number) & 1 == 1 }

  package var isEmpty: Bool { bits == 0 }
  package var count: Int { bits.nonzeroBitCount }

  /// Nil if there is none.
  package func first(from number: Int) -> Int? {
    guard number < 64 else { return nil }
    let rest = bits & (~0 << UInt64(number))
    return rest == 0 ? nil : rest.trailingZeroBitCount
  }

  /// In ascending order.
  package var numbers: [Int] { (0..<64).filter(contains) }
}
