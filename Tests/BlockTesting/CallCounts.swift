import BlockCore

/// How often a device was called, for each operation.
package struct CallCounts: Sendable {
  private var counts: [BlockError.Operation: Int] = [:]
  /// Calls of `tryRead`, which aren't in the count of reads.
  package private(set) var tryReads = 0
  /// Writes and zeroes that asked to be durable at once.
  package private(set) var forced = 0

  package init() {}

  package subscript(operation: BlockError.Operation) -> Int { counts[operation] ?? 0 }

  package mutating func count(_ operation: BlockError.Operation, forced isForced: Bool = false) {
    counts[operation, default: 0] += 1
    if isForced { forced += 1 }
  }

  package mutating func countTryRead() { tryReads += 1 }
}
