import Bytes
import BlockCore
import Buffers
import Model

/// Reads the leaves of a `.hashes` file; each page is proven against the root before a leaf of it is given out.
///
/// Keeps a few pages of each stored level, so that reading about in order reads each page once. One call at a time;
/// pages are hashed on the worker pool.
package final class HashTreeReader {
  /// A page that was read and proven.
  private struct Page {
    var index: UInt64
    var nodes: [Digest]
  }

  package enum Failure: Error, Sendable {
    case damaged(HashFileDamage)
    case device(BlockError)
  }

  package let tree: HashTree
  package let header: HashFileHeader
  let file: any BlockDevice
  private let work: any BackgroundWork
  /// By stored level, the one that came last first.
  private var pages: [[Page]]

  /// Pages of one level in memory: what is read out of order lies within two, as chunks in flight do.
  private static let cachedPageCount = 4

  /// Reads the header and compares the file with it and with what the manifest says.
  nonisolated(nonsending)
    package init(
      _ file: any BlockDevice, expecting root: Digest, byteCount: UInt64, backup: BackupID, work: any BackgroundWork
    ) async throws(Failure)
  {
    self.file = file
    self.work = work
    tree = HashTree(byteCount: byteCount)
    pages = Array(repeating: [], count: tree.storedLevels.count)
    guard file.byteCount == tree.fileByteCount else {
      throw .damaged(HashFileDamage("it has \(file.byteCount) bytes instead of \(tree.fileByteCount)"))
    }
    let page = try await Self.readPage(of: file, at: 0)
    do throws(HashFileDamage) {
      header = try HashFileHeader(decoding: page)
    } catch {
      throw .damaged(error)
    }
    guard header.root == root, header.guestByteCount == byteCount, header.backup == backup else {
      throw .damaged(HashFileDamage("its header names another root, size or backup than the manifest"))
    }
  }

  /// The leaves of `range`.
  nonisolated(nonsending)
    package func leaves(_ range: Range<UInt64>) async throws(Failure) -> [Digest]
  {
    precondition(range.upperBound <= tree.leafCount)
    var leaves: [Digest] = []
    leaves.reserveCapacity(range.count)
    let pageSize = UInt64(HashTree.nodesPerPage)
    var index = range.lowerBound
    while index < range.upperBound {
      let nodes = try await provenPage(index / pageSize, ofLevel: 0)
      let end = min(range.upperBound, (index / pageSize + 1) * pageSize)
      leaves += nodes[Int(index % pageSize)..<Int(index % pageSize + (end - index))]
      index = end
    }
    return leaves
  }

  /// The first leaf in `range` that isn't zero, found from the highest level down: cheap for long runs of zeroes.
  nonisolated(nonsending)
    package func firstDataLeaf(in range: Range<UInt64>) async throws(Failure) -> UInt64?
  {
    guard !range.isEmpty else { return nil }
    var index = range.lowerBound
    while index < range.upperBound {
      let run = try await zeroRun(at: index)
      if run == 0 { return index }
      index += run
    }
    return nil
  }

  /// How many leaves from `index` on are zero for certain, as far as the pages on one path tell; 0 if it isn't.
  nonisolated(nonsending)
    private func zeroRun(at index: UInt64) async throws(Failure) -> UInt64
  {
    for level in tree.storedLevels.indices.reversed() {
      let span = Self.leavesPerNode(ofLevel: level)
      let node = index / span
      let pageSize = UInt64(HashTree.nodesPerPage)
      let nodes = try await provenPage(node / pageSize, ofLevel: level)
      if nodes[Int(node % pageSize)] == .zero { return (node + 1) * span - index }
    }
    return 0
  }

  private static func leavesPerNode(ofLevel level: Int) -> UInt64 {
    UInt64(1) << UInt64(level * HashTree.levelsPerPage)
  }

  nonisolated(nonsending)
    func provenPage(_ index: UInt64, ofLevel level: Int) async throws(Failure) -> [Digest]
  {
    if let page = pages[level].first(where: { $0.index == index }) { return page.nodes }
    let stored = tree.storedLevels[level]
    let bytes = try await Self.readPage(
      of: file, at: stored.fileOffset + index * UInt64(HashTree.pageByteCount))
    let nodes = (0..<HashTree.nodesPerPage).map { Digest(from: bytes.span.bytes, at: $0 * Digest.byteCount) }
    guard try await isProven(nodes, index, level) else {
      throw .damaged(
        HashFileDamage("its page at byte \(stored.fileOffset + index * UInt64(HashTree.pageByteCount)) is damaged"))
    }
    if pages[level].count == Self.cachedPageCount { pages[level].removeLast() }
    pages[level].insert(Page(index: index, nodes: nodes), at: 0)
    return nodes
  }

  nonisolated(nonsending)
    private func isProven(_ nodes: [Digest], _ index: UInt64, _ level: Int) async throws(Failure) -> Bool
  {
    if level == tree.storedLevels.count - 1 {
      return await work.run { [tree] in tree.root(topPage: nodes) } == header.root
    }
    let pageSize = UInt64(HashTree.nodesPerPage)
    let parents = try await provenPage(index / pageSize, ofLevel: level + 1)
    return await work.run { HashTree.node(overPage: nodes) } == parents[Int(index % pageSize)]
  }

  nonisolated(nonsending)
    private static func readPage(of file: any BlockDevice, at offset: UInt64) async throws(Failure) -> [UInt8]
  {
    var bytes = [UInt8](repeating: 0, count: HashTree.pageByteCount)
    do throws(BlockError) {
      var span = bytes.mutableSpan
      var raw = span.mutableBytes
      try await file.read(into: &raw, at: offset)
    } catch {
      throw .device(error)
    }
    return bytes
  }
}

extension DomainError {
  package init(_ failure: HashTreeReader.Failure, of file: String) {
    switch failure {
    case .damaged(let damage):
      self.init(.backupCorrupt, "\(file): \(damage.text)", remedy: "use another backup")
    case .device(let error): self.init(error, of: file, damage: .backupCorrupt)
    }
  }
}
