import BlockCore
import Buffers

/// Reads compressed clusters: fetches the bytes, expands them in the background, and keeps the last few results,
/// as a reader usually comes back for the rest of a cluster.
final class ExpandedClusters {
  /// Clusters kept.
  static let keptCount = 4

  /// One cluster on its way through the background work: filled here, expanded there, read here again.
  private final class Passage: @unchecked Sendable {
    // Safe to share: the loop hands it to the work and touches it again only after the work has ended.
    private var input: PageBuffer
    private var output: PageBuffer
    private let inputByteCount: Int
    private let clusterByteCount: Int

    init(input: consuming PageBuffer, _ inputByteCount: Int, output: consuming PageBuffer, _ clusterByteCount: Int) {
      self.input = input
      self.output = output
      self.inputByteCount = inputByteCount
      self.clusterByteCount = clusterByteCount
    }

    func expand(_ type: CompressionType) -> Bool {
      output.expand(type, from: input, inputByteCount, into: clusterByteCount)
    }

    func copy(from start: Int, into target: inout MutableRawSpan) {
      output.copy(start..<start + target.byteCount, into: &target)
    }
  }

  private let file: ImageFile
  private let type: CompressionType
  private let work: any BackgroundWork
  private var kept: [(cluster: UInt64, passage: Passage)] = []

  init(file: ImageFile, type: CompressionType, work: any BackgroundWork) {
    self.file = file
    self.type = type
    self.work = work
  }

  /// Copies bytes of a guest cluster, from `start` in it on, if it was expanded just now.
  func tryRead(_ cluster: UInt64, from start: Int, into target: inout MutableRawSpan) -> Bool {
    guard let passage = kept.first(where: { $0.cluster == cluster })?.passage else { return false }
    passage.copy(from: start, into: &target)
    return true
  }

  /// Copies bytes of a guest cluster that is stored at `place`. The caller holds the cluster: its place can't change.
  func read(
    _ cluster: UInt64, at place: CompressedDescriptor, from start: Int, into target: inout MutableRawSpan
  ) async throws(BlockError) {
    if tryRead(cluster, from: start, into: &target) { return }
    var input = file.pool.take(place.byteCount)
    var all = input.mutableBytes
    // The last sector may be missing at the end of the file: what isn't there reads as zeroes.
    var bytes = all.part(0..<place.byteCount)
    try await file.read(into: &bytes, at: place.offset)
    let clusterByteCount = Int(file.clusterByteCount)
    let passage = Passage(
      input: input, place.byteCount, output: file.pool.take(clusterByteCount), clusterByteCount)
    let type = type
    guard await work.run({ passage.expand(type) }) else {
      let range = ByteRange(offset: cluster * file.clusterByteCount, length: file.clusterByteCount)
      throw BlockError(.corrupt("compressed data at \(place.offset) can't be expanded"), .read, range)
    }
    passage.copy(from: start, into: &target)
    guard target.byteCount < clusterByteCount else { return }
    kept.removeAll { $0.cluster == cluster }
    if kept.count >= Self.keptCount { kept.removeFirst() }
    kept.append((cluster, passage))
  }

  /// The clusters are stored anew.
  func forget(_ clusters: Range<UInt64>) {
    kept.removeAll { clusters.contains($0.cluster) }
  }
}

extension PageBuffer {
  /// Expands the first `inputByteCount` bytes of `input` into the first `outputByteCount` bytes of this one.
  fileprivate mutating func expand(
    _ type: CompressionType, from input: borrowing PageBuffer, _ inputByteCount: Int, into outputByteCount: Int
  ) -> Bool {
    var all = mutableBytes
    var cluster = all.part(0..<outputByteCount)
    return ClusterExpansion.expand(type, input.bytes.extracting(0..<inputByteCount), into: &cluster)
  }
}
