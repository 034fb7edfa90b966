import BlockCore

/// What a stretch of the guest's disk is, in the highest layer of a chain that says anything of it.
struct ChainRun: Hashable, Sendable {
  enum Content: UInt8, Sendable {
    case data, compressed
    /// Zeroes with storage kept for them, and zeroes without.
    case zeroes, hole
    /// Past the end of the layer: nothing is stored here, and what lies below doesn't show.
    case nothing
    /// The layer's tables say something that can't be used.
    case unreadable
  }

  var range: ByteRange
  /// 0 is the top of the chain.
  var layer: UInt32
  var content: Content

  /// Whether `next` says the same of the bytes right behind.
  func continues(with next: ChainRun) -> Bool {
    range.end == next.range.offset && layer == next.layer && content == next.content
  }
}

/// A chain's layers flattened into one: for each byte of the guest's disk the layer that has the say.
///
/// It holds the runs of all layers but the lowest, whose own tables tell what is there: a full backup, which is much of
/// what a chain stores, costs the map nothing, nor does it matter how its data lie. A run says only which layer, and the
/// layer's tables where in its file: runs of one layer are joined wherever their data lie.
struct ChainMap: Sendable {
  /// In order, apart from each other; the gaps are the lowest layer's.
  let runs: [ChainRun]

  /// A stretch of the disk; `run` is nil if the lowest layer has the say.
  struct Piece {
    let range: ByteRange
    let run: ChainRun?
  }

  /// The longest stretch from `offset` on, up to `end`, of which one layer says the same.
  func piece(at offset: UInt64, upTo end: UInt64) -> Piece {
    var (low, high) = (0, runs.count)
    while low < high {
      let middle = (low + high) / 2
      if runs[middle].range.end <= offset { low = middle + 1 } else { high = middle }
    }
    guard low < runs.count, runs[low].range.offset < end else { return Piece(range: ByteRange(offset..<end), run: nil) }
    let run = runs[low]
    guard run.range.offset <= offset else { return Piece(range: ByteRange(offset..<run.range.offset), run: nil) }
    return Piece(range: ByteRange(offset..<min(end, run.range.end)), run: run)
  }
}

/// Makes a map of the runs of layers, which come from the top down.
///
/// Layers are merged in pairs of about the same number of them, as a counter in base 2 carries: that costs the logarithm of
/// the depth for each run, and not the depth.
struct ChainMapBuilder {
  /// The runs together are more than ``maximumRunCount``.
  struct TooManyRuns: Error {}

  /// Runs in memory, of 24 bytes; while two lists are merged they are there twice.
  static let maximumRunCount = 4 << 20

  private let limit: Int
  /// The highest layers first, each list with the number of merges behind it.
  private var lists: [(runs: [ChainRun], rank: Int)] = []
  private var count = 0

  init(limit: Int = maximumRunCount) { self.limit = limit }

  /// - Parameter runs: those of the layer below the ones before, in order.
  mutating func add(_ runs: [ChainRun]) throws(TooManyRuns) {
    count += runs.count
    lists.append((runs, 0))
    while lists.count > 1, lists[lists.count - 2].rank == lists[lists.count - 1].rank { mergeLowest() }
    guard count <= limit else { throw TooManyRuns() }
  }

  mutating func finish() -> ChainMap {
    while lists.count > 1 { mergeLowest() }
    return ChainMap(runs: lists.first?.runs ?? [])
  }

  private mutating func mergeLowest() {
    let lower = lists.removeLast()
    let upper = lists.removeLast()
    let merged = Self.overlay(upper.runs, lower.runs)
    count += merged.count - upper.runs.count - lower.runs.count
    lists.append((merged, max(upper.rank, lower.rank) + 1))
  }

  /// All of `upper`, and what of `lower` it leaves visible.
  static func overlay(_ upper: [ChainRun], _ lower: [ChainRun]) -> [ChainRun] {
    if upper.isEmpty { return lower }
    if lower.isEmpty { return upper }
    var result: [ChainRun] = []
    result.reserveCapacity(upper.count + lower.count)
    var next = 0
    // Bytes before it are decided.
    var offset: UInt64 = 0
    /// What the lower runs say of the bytes up to `end`.
    func appendVisible(upTo end: UInt64) {
      while next < lower.count, lower[next].range.offset < end {
        if let visible = lower[next].range.intersection(ByteRange(offset..<max(offset, end))) {
          result.appendJoining(ChainRun(range: visible, layer: lower[next].layer, content: lower[next].content))
        }
        // A run that goes on behind `end` is looked at again.
        guard lower[next].range.end <= end else { break }
        next += 1
      }
    }
    for run in upper {
      appendVisible(upTo: run.range.offset)
      result.appendJoining(run)
      offset = run.range.end
    }
    appendVisible(upTo: .max)
    return result
  }
}

extension [ChainRun] {
  /// Appends `run`, joined with the last one where it says the same of the bytes right behind it.
  mutating func appendJoining(_ run: ChainRun) {
    guard !run.range.isEmpty else { return }
    if let last, last.continues(with: run) {
      self[count - 1].range.length += run.range.length
    } else {
      append(run)
    }
  }
}
