/// References to the host clusters of one window of the file, two bytes each, and in which windows there are any.
struct ReferenceCounts {
  /// Clusters in a window: 32 MiB of counts.
  static let usualWindowClusterCount: UInt64 = 16 << 20

  private(set) var window: Range<UInt64>
  private let windowClusterCount: UInt64
  /// The windows, by number, that references lie in: no more than one too many for ``MetadataWalk``.
  private(set) var usedWindows: Set<UInt64> = []
  private var lastUsedWindow: UInt64?
  /// Empty until the first reference.
  private var counts: [UInt16] = []

  init(window: Range<UInt64>, windowClusterCount: UInt64) {
    self.window = window
    self.windowClusterCount = windowClusterCount
  }

  /// Goes on with another window, to which no reference was counted yet.
  mutating func begin(_ window: Range<UInt64>) {
    self.window = window
    counts = []
  }

  /// The count, which stops at 65535.
  subscript(cluster: UInt64) -> UInt64 { counts.isEmpty ? 0 : UInt64(counts[Int(cluster - window.lowerBound)]) }

  func hasReferences(in clusters: Range<UInt64>) -> Bool {
    if counts.isEmpty { return false }
    let start = window.lowerBound
    return counts[Int(clusters.lowerBound - start)..<Int(clusters.upperBound - start)].contains { $0 != 0 }
  }

  /// Adds a reference to each cluster of the range that lies in the window.
  mutating func add(_ clusters: Range<UInt64>) {
    guard !clusters.isEmpty else { return }
    noteWindows(of: clusters)
    let inside = clusters.clamped(to: window)
    guard !inside.isEmpty else { return }
    if counts.isEmpty { counts = [UInt16](repeating: 0, count: Int(window.upperBound - window.lowerBound)) }
    for cluster in inside {
      let index = Int(cluster - window.lowerBound)
      if counts[index] < .max { counts[index] += 1 }
    }
  }

  private mutating func noteWindows(of clusters: Range<UInt64>) {
    let first = clusters.lowerBound / windowClusterCount
    let last = (clusters.upperBound - 1) / windowClusterCount
    if first == last, first == lastUsedWindow { return }
    for number in first...last where usedWindows.count <= MetadataWalk.maximumWindowCount {
      usedWindows.insert(number)
    }
    lastUsedWindow = last
  }
}
