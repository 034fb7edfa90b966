import Bytes
import Synchronization

/// Names of requests: one random number for the run of the program, then a count.
package enum RequestIdentity {
  private static let run = Hexadecimal.text(of: UInt64.random(in: .min ... .max))
  private static let count = Atomic<UInt64>(0)

  /// 32 lowercase hexadecimal digits that no other request of this run has.
  package static func next() -> String {
    run + Hexadecimal.text(of: count.wrappingAdd(1, ordering: .relaxed).newValue)
  }
}
