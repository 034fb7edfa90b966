import Bytes
import BlockCore
import Buffers
import Failures
import Model

/// Reads the leaves of a `.hashes` file; each page is proven against the root before a leaf of it is given out.
///
/// Keeps some pages of each stored level, so that reading about in order reads each page once. One call at a time;
/// pages are hashed on the worker pool.
package final class HashTreeReader {
  /// A page that was read and proven.
  private struct Page {
    var index: UInt64
    var nodes: [Digest]
  }

  package enum Failure: Error, Sendable {
    case damaged(HashFileDamage)
    /// `of`: the file, where it isn't the reader's own.
    case device(BlockError, of: String? = nil)
    /// A backup below can't be used.
    case refused(DomainError)
  }

  package var tree: HashTree { own.tree }
  package var header: HashFileHeader { own.header }
  var file: any BlockDevice { own.device }
  private let own: HashFile
  private let inherited: (any InheritedHashes)?
  private let work: any BackgroundWork
  /// By stored level, the one that came last first.
  private var pages: [[Page]]

  /// Pages of one level in memory.
  private let cachedPageCount: Int

  /// Enough for what is read about in order: it lies within two, as chunks in flight do.
  package static let cachedPageCount = 4

  /// Reads the header and compares the file with it and with what the manifest says.
  /// - Parameter inherited: the pages that an increment's file leaves out.
  nonisolated(nonsending)
    package convenience init(
      _ file: any BlockDevice, expecting root: Digest, byteCount: UInt64, backup: BackupID,
      over inherited: (any InheritedHashes)? = nil, work: any BackgroundWork
    ) async throws(Failure)
  {
    let own = try await HashFile(file, expecting: root, byteCount: byteCount, backup: backup)
    self.init(own, over: inherited, work: work)
  }

  init(
    _ own: HashFile, over inherited: (any InheritedHashes)?, work: any BackgroundWork,
    cachedPageCount: Int = HashTreeReader.cachedPageCount
  ) {
    self.cachedPageCount = cachedPageCount
    self.own = own
    self.inherited = inherited
    self.work = work
    pages = Array(repeating: [], count: own.tree.storedLevels.count)
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
    let nodes = try await readProven(index, level)
    if pages[level].count == cachedPageCount { pages[level].removeLast() }
    pages[level].insert(Page(index: index, nodes: nodes), at: 0)
    return nodes
  }

  nonisolated(nonsending)
    private func readProven(_ index: UInt64, _ level: Int) async throws(Failure) -> [Digest]
  {
    let nodes = try await own.page(index, ofLevel: level)
    if level == tree.storedLevels.count - 1 {
      let root = await work.run { [tree] in tree.root(topPage: nodes) }
      guard root == header.root else { throw own.damage(index, ofLevel: level) }
      return nodes
    }
    let pageSize = UInt64(HashTree.nodesPerPage)
    let over = try await provenPage(index / pageSize, ofLevel: level + 1)[Int(index % pageSize)]
    if await work.run({ HashTree.node(overPage: nodes) }) == over { return nodes }
    guard header.isOverParent, let inherited, nodes.allSatisfy({ $0 == .zero }) else {
      throw own.damage(index, ofLevel: level)
    }
    return try await inherited.page(index, ofLevel: level, under: over)
  }

  /// The node over a page; nil where the tree has no such page.
  nonisolated(nonsending)
    func node(overPage index: UInt64, ofLevel level: Int) async throws(Failure) -> Digest?
  {
    guard tree.hasPage(index, ofLevel: level) else { return nil }
    if level == tree.storedLevels.count - 1 {
      let nodes = try await provenPage(index, ofLevel: level)
      return await work.run { HashTree.node(overPage: nodes) }
    }
    let pageSize = UInt64(HashTree.nodesPerPage)
    return try await provenPage(index / pageSize, ofLevel: level + 1)[Int(index % pageSize)]
  }
}

extension DomainError {
  package init(_ failure: HashTreeReader.Failure, of file: String) {
    switch failure {
    case .damaged(let damage):
      self.init(.backupCorrupt, "\(damage.file ?? file): \(damage.text)", remedy: "use another backup")
    case .device(let error, let other): self.init(error, of: other ?? file, damage: .backupCorrupt)
    case .refused(let error): self = error
    }
  }
}

/// Runs `body`, which works on hash files; what it throws comes out as a `DomainError` about `file`, but a cancellation as
/// itself.
nonisolated(nonsending)
  package func tellingAboutHashes<Result>(_ file: String, _ body: () async throws -> Result) async throws -> Result
{
  try await telling(about: file, damage: .backupCorrupt) {
    do {
      return try await body()
    } catch let failure as HashTreeReader.Failure {
      throw DomainError(failure, of: file)
    }
  }
}
