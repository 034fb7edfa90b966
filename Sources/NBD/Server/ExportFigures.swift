import Locks

/// How long requests took, in buckets that grow by a fifth to a quarter.
///
/// It is hand-written because it lies among counters that one lock guards, and two digits are enough: the histograms of
/// libraries bring locks and reports of their own.
package struct LatencyHistogram: Hashable, Sendable {
  /// Buckets in each doubling.
  private static let steps = 4
  /// The last bucket takes everything from about two minutes on.
  private static let bucketCount = 27 * steps

  package private(set) var counts = [UInt64](repeating: 0, count: bucketCount)

  package init() {}

  package var count: UInt64 { counts.reduce(0, +) }

  package mutating func record(nanoseconds: UInt64) { counts[Self.bucket(nanoseconds)] += 1 }

  package mutating func add(_ other: LatencyHistogram) {
    for index in counts.indices { counts[index] += other.counts[index] }
  }

  /// Without those that were counted earlier.
  package func subtracting(_ earlier: LatencyHistogram) -> LatencyHistogram {
    var rest = self
    for index in counts.indices { rest.counts[index] -= min(counts[index], earlier.counts[index]) }
    return rest
  }

  /// How many took longer for certain.
  package func count(above microseconds: Double) -> UInt64 {
    var above: UInt64 = 0
    for index in counts.indices.dropFirst() where Self.upperBound(index - 1) >= microseconds { above += counts[index] }
    return above
  }

  /// The time within which `share` (0 to 1) of the requests were answered, rounded up to a bucket's end; nil if there
  /// were none.
  package func microseconds(share: Double) -> Double? {
    let total = count
    guard total > 0 else { return nil }
    let wanted = max(1, UInt64((Double(total) * share).rounded(.up)))
    var seen: UInt64 = 0
    for (index, count) in counts.enumerated() {
      seen += count
      if seen >= wanted { return Self.upperBound(index) }
    }
    return Self.upperBound(Self.bucketCount - 1)
  }

  // A quarter of a microsecond is the unit, so that the steps of the first doubling are whole.
  private static func bucket(_ nanoseconds: UInt64) -> Int {
    let units = max(UInt64(steps), nanoseconds / 250)
    let octave = UInt64.bitWidth - 1 - units.leadingZeroBitCount - 2
    let step = Int(units >> UInt64(octave)) - steps
    return min(bucketCount - 1, octave * steps + step)
  }

  private static func upperBound(_ index: Int) -> Double {
    let (octave, step) = index.quotientAndRemainder(dividingBy: steps)
    return Double((steps + step + 1) << octave) / 4
  }
}

/// What an export has done so far.
package struct ExportFigures: Hashable, Sendable {
  package enum Kind: Int, CaseIterable, Sendable {
    case read, write, flush, other
  }

  package struct Requests: Hashable, Sendable {
    package internal(set) var count: UInt64 = 0
    /// Refused, or failed by the device.
    package internal(set) var failedCount: UInt64 = 0
    /// Bytes of the export that they were about, successful ones only.
    package internal(set) var byteCount: UInt64 = 0
    package internal(set) var latency = LatencyHistogram()
  }

  /// Clients in transmission now.
  package internal(set) var clientCount = 0
  /// All there ever were.
  package internal(set) var totalClientCount: UInt64 = 0
  /// By ``Kind``.
  package internal(set) var requests = [Requests](repeating: Requests(), count: Kind.allCases.count)

  package subscript(_ kind: Kind) -> Requests { requests[kind.rawValue] }
}

/// Counts for one export, from its connections on its loop; any thread may look.
final class ExportCounters: Sendable {
  private let figures = Lock(ExportFigures())

  var current: ExportFigures { figures.withLock { $0 } }

  func clientCame() {
    figures.withLock {
      $0.clientCount += 1
      $0.totalClientCount += 1
    }
  }

  func clientLeft() { figures.withLock { $0.clientCount -= 1 } }

  @inline(__always)
  func count(_ command: Command?, byteCount: UInt64, nanoseconds: UInt64, hasFailed: Bool) {
    figures.withLock { figures in
      let index = ExportFigures.Kind(command).rawValue
      figures.requests[index].count += 1
      if hasFailed {
        figures.requests[index].failedCount += 1
      } else {
        figures.requests[index].byteCount += byteCount
      }
      figures.requests[index].latency.record(nanoseconds: nanoseconds)
    }
  }
}

extension ExportFigures.Kind {
  init(_ command: Command?) {
    self =
      switch command {
      case .read: .read
      case .write, .writeZeroes, .trim: .write
      case .flush: .flush
      case .cache, .blockStatus, .disconnect, nil: .other
      }
  }
}
