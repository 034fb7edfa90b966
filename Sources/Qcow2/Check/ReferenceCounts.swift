/// References to the host clusters of one window of the file, two bytes each.
///
/// A file with more clusters than a window is walked once for each of its windows.
struct ReferenceCounts {
  /// Clusters in a window: 32 MiB of counts.
  static let windowClusterCount: UInt64 = 16 << 20

  let window: Range<UInt64>
  private var counts: [UInt16]

  init(window: Range<UInt64>) {
    self.window = window
    counts = [UInt16](repeating: 0, count: Int(window.upperBound - window.lowerBound))
  }

  /// The count, which stops at 65535.
  subscript(cluster: UInt64) -> UInt64 { UInt64(counts[Int(cluster - window.lowerBound)]) }

  /// Adds a reference to each cluster of the range that lies in the window.
  mutating func add(_ clusters: Range<UInt64>) {
    for cluster in clusters.clamped(to: window) {
      let index = Int(cluster - window.lowerBound)
      if counts[index] < .max { counts[index] += 1 }
    }
  }
}
