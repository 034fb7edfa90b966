import Bytes
import BlockCore
import Model

/// Writes a `.hashes` file while the leaves come in, in any order, each once; those that don't come are the parent's.
///
/// Over a parent only pages are stored that differ from its own: see ``HashFileHeader``.
///
/// - One call at a time. What comes out is the same whatever the order, to the byte.
/// - A page is hashed on the worker pool and written as soon as it is complete, and its node goes to the level above.
///   Pages that are begun stay in memory, ``cachedPageCount`` at most; more are put by in their places in the file, with
///   ``missing`` for what hasn't come, and are read again when they go on. In the order of the disk none ever is.
/// - Runs of zeroes cost next to nothing, in time and on the storage: their pages stay holes.
package final class HashTreeWriter {
  package let tree: HashTree
  private let file: any BlockDevice
  private let work: any BackgroundWork
  private let parent: HashTreeReader?
  private var pages: [Position: Page] = [:]
  private var useCount: UInt64 = 0
  private var hasPutBy = false
  /// The page of the highest level, when it is complete.
  private var top: [Digest]?

  /// Pages in memory, beside the highest level's.
  package static let cachedPageCount = 64

  /// Stands for a node that hasn't come: no SHA-256 of anything is known to be that.
  static let missing = Digest(
    from: [UInt8](repeating: 0xFF, count: Digest.byteCount).span.bytes, at: 0)

  struct Position: Hashable {
    var level: Int
    /// Among the level's pages.
    var index: UInt64

    /// Where the node over the page goes.
    var above: Position { Position(level: level + 1, index: index / UInt64(HashTree.nodesPerPage)) }
    var placeAbove: Int { Int(index % UInt64(HashTree.nodesPerPage)) }
    func below(_ place: Int) -> Position {
      Position(level: level - 1, index: index * UInt64(HashTree.nodesPerPage) + UInt64(place))
    }
  }

  struct Page {
    var nodes: [Digest]
    var missingCount: Int
    /// Whether nothing has come yet, for it or for a page below it.
    var isFresh: Bool
    /// Whether something else stands in its place in the file.
    var wasPutBy: Bool
    var lastUse: UInt64 = 0
  }

  /// - Parameters:
  ///   - parent: has the leaves that don't come; those of grains that are as long there as here.
  ///   - file: empty; it is grown to the tree's size at once.
  nonisolated(nonsending)
    package init(
      _ tree: HashTree, over parent: HashTreeReader? = nil, to file: any BlockDevice, work: any BackgroundWork
    ) async throws(HashTreeReader.Failure)
  {
    self.tree = tree
    self.parent = parent
    self.file = file
    self.work = work
    do throws(BlockError) {
      try await file.resize(to: tree.fileByteCount)
    } catch {
      throw .device(error)
    }
  }

  /// Leaves from `index` on.
  nonisolated(nonsending)
    package func put(_ leaves: [Digest], at index: UInt64) async throws(HashTreeReader.Failure)
  {
    precondition(index + UInt64(leaves.count) <= tree.leafCount)
    try await put(leaves, at: index, ofLevel: 0)
  }

  /// Leaves of zeroes.
  nonisolated(nonsending)
    package func putZeroes(_ range: Range<UInt64>) async throws(HashTreeReader.Failure)
  {
    precondition(range.upperBound <= tree.leafCount)
    try await putZeroes(range, ofLevel: 0)
  }

  /// Completes the tree and writes the header; nothing is flushed.
  /// - Precondition: all leaves have come, or the parent has them.
  /// - Throws: `HashTreeReader.Failure`; what `checkpoint` throws, which is called between pages that are completed.
  nonisolated(nonsending)
    package func finish(backup: BackupID, _ checkpoint: () async throws -> Void = {}) async throws -> Digest
  {
    if top == nil, let parent, !tree.storedLevels.isEmpty {
      let position = Position(level: tree.storedLevels.count - 1, index: 0)
      var page = try await take(position)
      try await complete(&page, at: position, from: parent, checkpoint)
      top = page.nodes
    }
    let top = top ?? []
    precondition(!top.isEmpty || tree.storedLevels.isEmpty, "not all of \(tree.leafCount) leaves came")
    if let level = tree.storedLevels.indices.last {
      _ = try await write(top, at: Position(level: level, index: 0), isAlways: true)
    }
    let root = await work.run { [tree] in tree.root(topPage: top) }
    let header = HashFileHeader(
      guestByteCount: tree.byteCount, root: root, backup: backup, isOverParent: parent != nil
    ).encoded()
    try await write(header, at: 0)
    return root
  }

  // MARK: Nodes of one level

  private func isTop(_ level: Int) -> Bool { level == tree.storedLevels.count - 1 }

  nonisolated(nonsending)
    private func put(_ nodes: [Digest], at index: UInt64, ofLevel level: Int) async throws(HashTreeReader.Failure)
  {
    let pageSize = UInt64(HashTree.nodesPerPage)
    var done = 0
    while done < nodes.count {
      let next = index + UInt64(done)
      let place = Int(next % pageSize)
      let count = min(HashTree.nodesPerPage - place, nodes.count - done)
      try await put(nodes[done..<done + count], at: place, of: Position(level: level, index: next / pageSize))
      done += count
    }
  }

  nonisolated(nonsending)
    private func put(_ nodes: ArraySlice<Digest>, at place: Int, of position: Position) async throws(HashTreeReader
    .Failure)
  {
    var page = try await take(position)
    for (offset, node) in nodes.enumerated() {
      precondition(page.nodes[place + offset] == Self.missing, "a leaf came twice")
      page.nodes[place + offset] = node
    }
    page.missingCount -= nodes.count
    if page.isFresh, parent != nil, !isTop(position.level) { try await begin(position.above) }
    page.isFresh = false
    if page.missingCount > 0 { return try await keep(page, at: position) }
    guard !isTop(position.level) else { return top = page.nodes }
    let node = try await write(page.nodes, at: position, isAlways: page.wasPutBy)
    try await put([node], at: position.placeAbove, of: position.above)
  }

  /// Notes that something has come below the page: the parent's can't be taken whole.
  nonisolated(nonsending)
    private func begin(_ position: Position) async throws(HashTreeReader.Failure)
  {
    var page = try await take(position)
    if page.isFresh, !isTop(position.level) { try await begin(position.above) }
    page.isFresh = false
    try await keep(page, at: position)
  }

  nonisolated(nonsending)
    private func putZeroes(_ range: Range<UInt64>, ofLevel level: Int) async throws(HashTreeReader.Failure)
  {
    guard !range.isEmpty else { return }
    let pageSize = UInt64(HashTree.nodesPerPage)
    let (first, rest) = range.lowerBound.quotientAndRemainder(dividingBy: pageSize)
    // Whole pages of zeroes are told to the level above and stay holes; the last page of a level may be short.
    let isToEnd = range.upperBound == tree.storedLevels[level].nodeCount
    let wholeStart = first + (rest == 0 ? 0 : 1)
    let wholeEnd = (range.upperBound + (isToEnd ? pageSize - 1 : 0)) / pageSize
    guard !isTop(level), wholeStart < wholeEnd else {
      return try await put([Digest](repeating: .zero, count: range.count), at: range.lowerBound, ofLevel: level)
    }
    for part in [
      range.lowerBound..<wholeStart * pageSize, min(wholeEnd * pageSize, range.upperBound)..<range.upperBound,
    ] {
      try await put([Digest](repeating: .zero, count: part.count), at: part.lowerBound, ofLevel: level)
    }
    try await putZeroes(wholeStart..<wholeEnd, ofLevel: level + 1)
  }

  // MARK: Pages

  /// Writes a page that is complete, unless it is zero or the parent's. Returns the node over it.
  nonisolated(nonsending)
    func write(
      _ nodes: [Digest], at position: Position, isAlways: Bool
    ) async throws(HashTreeReader.Failure) -> Digest
  {
    let node = await work.run { HashTree.node(overPage: nodes) }
    if !isAlways {
      if node == .zero { return node }
      if try await parent?.node(overPage: position.index, ofLevel: position.level) == node { return node }
    }
    try await write(Self.bytes(of: nodes), at: offset(of: position))
    return node
  }

  nonisolated(nonsending)
    private func write(_ bytes: [UInt8], at offset: UInt64) async throws(HashTreeReader.Failure)
  {
    do throws(BlockError) {
      try await file.write(bytes.span.bytes, at: offset)
    } catch {
      throw .device(error)
    }
  }

  private func offset(of position: Position) -> UInt64 {
    tree.storedLevels[position.level].fileOffset + position.index * UInt64(HashTree.pageByteCount)
  }

  private static func bytes(of nodes: [Digest]) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: HashTree.pageByteCount)
    for (index, node) in nodes.enumerated() { node.store(in: &bytes, at: index * Digest.byteCount) }
    return bytes
  }

  /// The page as it is by now; it isn't in memory any more, and is the caller's to keep or to complete.
  nonisolated(nonsending)
    func take(_ position: Position) async throws(HashTreeReader.Failure) -> Page
  {
    if let page = pages.removeValue(forKey: position) { return page }
    if hasPutBy, let page = try await readPutBy(position) { return page }
    let first = position.index * UInt64(HashTree.nodesPerPage)
    let count = min(tree.storedLevels[position.level].nodeCount - first, UInt64(HashTree.nodesPerPage))
    let nodes = (0..<HashTree.nodesPerPage).map { $0 < count ? Self.missing : .zero }
    return Page(nodes: nodes, missingCount: Int(count), isFresh: true, wasPutBy: false)
  }

  nonisolated(nonsending)
    private func readPutBy(_ position: Position) async throws(HashTreeReader.Failure) -> Page?
  {
    var bytes = [UInt8](repeating: 0, count: HashTree.pageByteCount)
    do throws(BlockError) {
      var span = bytes.mutableSpan
      var raw = span.mutableBytes
      try await file.read(into: &raw, at: offset(of: position))
    } catch {
      throw .device(error)
    }
    // What was put by misses something, so it isn't zero.
    guard !bytes.span.bytes.isZero else { return nil }
    let nodes = (0..<HashTree.nodesPerPage).map { Digest(from: bytes.span.bytes, at: $0 * Digest.byteCount) }
    return Page(
      nodes: nodes, missingCount: nodes.count { $0 == Self.missing }, isFresh: false, wasPutBy: true)
  }

  nonisolated(nonsending)
    private func keep(_ page: Page, at position: Position) async throws(HashTreeReader.Failure)
  {
    var page = page
    useCount += 1
    page.lastUse = useCount
    pages[position] = page
    guard pages.count > Self.cachedPageCount + 1 else { return }
    let oldest = pages.filter { !isTop($0.key.level) }.min { $0.value.lastUse < $1.value.lastUse }
    guard let oldest else { return }
    pages[oldest.key] = nil
    hasPutBy = true
    try await write(Self.bytes(of: oldest.value.nodes), at: offset(of: oldest.key))
  }
}
