/// Host clusters that follow one another: `first` is a cluster index in the file.
struct ClusterRun: Hashable, Sendable {
  var first: UInt64
  var count: UInt64

  var end: UInt64 { first + count }

  /// The run without its first `number` clusters.
  func dropping(_ number: UInt64) -> ClusterRun { ClusterRun(first: first + number, count: count - number) }
}

extension [ClusterRun] {
  /// Appends `run`, joined with the last one where it follows it.
  mutating func appendMerging(_ run: ClusterRun) {
    guard run.count > 0 else { return }
    if let last, last.end == run.first {
      self[count - 1].count += run.count
    } else {
      append(run)
    }
  }
}
