import Model

/// Collects what verification finds; stores nothing.
final class VerifySink: CopySink {
  private let comparison: HashComparison
  private var differences: [HashComparison.Difference] = []
  private(set) var findingCount = 0

  /// The first of them in the order of the disk, whatever the order in which they were found.
  var findings: [String] {
    var sorted = differences
    Self.keepFirst(&sorted)
    return sorted.map(comparison.describe)
  }

  init(_ comparison: HashComparison) { self.comparison = comparison }

  nonisolated(nonsending)
    func admit(_ chunk: Chunk) async throws
  {
    let found = try await comparison.differences(in: chunk)
    findingCount += found.count
    differences += found
    if differences.count > 2 * VerifyReport.maximumFindingCount { Self.keepFirst(&differences) }
  }

  private static func keepFirst(_ differences: inout [HashComparison.Difference]) {
    differences.sort { $0.range.offset < $1.range.offset }
    differences.removeLast(max(0, differences.count - VerifyReport.maximumFindingCount))
  }

  nonisolated(nonsending)
    func store(_ chunk: Chunk) async throws
  {}
}
