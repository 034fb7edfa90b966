import Synchronization

/// Names of requests: one random number for the run of the program, then a count.
package enum RequestIdentity {
  private static let run = hexadecimal(UInt64.random(in: .min ... .max))
  private static let count = Atomic<UInt64>(0)

  /// 32 lowercase hexadecimal digits that no other request of this run has.
  package static func next() -> String {
    run + hexadecimal(count.wrappingAdd(1, ordering: .relaxed).newValue)
  }

  private static func hexadecimal(_ number: UInt64) -> String {
    let digits = String(number, radix: 16)
    return String(repeating: "0", count: 16 - digits.utf8.count) + digits
  }
}
