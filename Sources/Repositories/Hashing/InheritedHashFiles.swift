import Bytes
import BlockCore
import Failures
import Model

/// The hash files of the backups below an increment, opened when they are needed.
///
/// A page is looked for from the nearest file down: the first that holds something at its place must match the node over
/// it. What a file holds is asked once, so that a page far below costs one read. Of a long chain few files stay open.
/// Confined to the loop of its repository; one call at a time.
final class InheritedHashFiles: InheritedHashes, @unchecked Sendable {
  // Safe to hand over: its loop alone uses it.

  private struct Link {
    let backup: StoredBackup
    let tree: HashTree
    /// Nil while it is closed.
    var file: HashFile?
    /// What isn't a hole, in order; nil where that is too much to keep, or isn't known.
    var stored: [ByteRange]?
    var lastUse: UInt64 = 0
  }

  private let work: any BackgroundWork
  private let top: StoredBackup
  private var links: [Link] = []
  /// All that the top builds on; nil until it is asked for.
  private var ancestry: [StoredBackup]?
  private var openCount = 0
  private var useCount: UInt64 = 0

  /// Files that stay open.
  static let openFileCount = 64
  /// Extents that are remembered of one file.
  private static let extentCount = 512

  /// - Parameter backup: what builds on them.
  init(below backup: StoredBackup, work: any BackgroundWork) {
    top = backup
    self.work = work
  }

  nonisolated(nonsending)
    func page(
      _ index: UInt64, ofLevel level: Int, under node: Digest
    ) async throws(HashTreeReader.Failure) -> [Digest]
  {
    var depth = 0
    while try await reach(depth) {
      if mayHold(index, level, depth),
        let nodes = try await open(depth).page(index, ofLevel: level, under: node, work)
      {
        return nodes
      }
      depth += 1
    }
    throw .damaged(
      HashFileDamage("its page \(index) of level \(level) is missing", in: (links.last?.backup ?? top).hashesName))
  }

  nonisolated(nonsending)
    func close() async
  {
    for index in links.indices { await close(index) }
  }

  /// False where the file is known to have a hole, or no such page.
  private func mayHold(_ index: UInt64, _ level: Int, _ depth: Int) -> Bool {
    let tree = links[depth].tree
    guard tree.hasPage(index, ofLevel: level) else { return false }
    return links[depth].stored?.mayOverlap(tree.place(ofPage: index, level: level)) ?? true
  }

  // MARK: Links

  /// False if there is none so far down.
  nonisolated(nonsending)
    private func reach(_ depth: Int) async throws(HashTreeReader.Failure) -> Bool
  {
    while links.count <= depth {
      let ancestry = try await ancestors()
      guard links.count < ancestry.count else { return false }
      let backup = ancestry[links.count]
      links.append(Link(backup: backup, tree: HashTree(byteCount: backup.manifest.virtualSize)))
      links[links.count - 1].stored = try await storedRanges(of: try await open(links.count - 1))
    }
    return true
  }

  /// Their manifests are read at once: the folder of a chain is listed once, whatever its depth.
  nonisolated(nonsending)
    private func ancestors() async throws(HashTreeReader.Failure) -> [StoredBackup]
  {
    if let ancestry { return ancestry }
    do {
      let found = try await top.repository.ancestry(of: top)
      ancestry = found
      return found
    } catch {
      throw .refused(DomainError(any: error, of: top.hashesName))
    }
  }

  nonisolated(nonsending)
    private func open(_ depth: Int) async throws(HashTreeReader.Failure) -> HashFile
  {
    useCount += 1
    links[depth].lastUse = useCount
    if let file = links[depth].file { return file }
    if openCount >= Self.openFileCount {
      let open = links.indices.filter { links[$0].file != nil }
      if let oldest = open.min(by: { links[$0].lastUse < links[$1].lastUse }) { await close(oldest) }
    }
    let file = try await links[depth].backup.openHashFile()
    links[depth].file = file
    openCount += 1
    return file
  }

  nonisolated(nonsending)
    private func close(_ depth: Int) async
  {
    guard let file = links[depth].file else { return }
    links[depth].file = nil
    openCount -= 1
    try? await file.device.close()
  }

  nonisolated(nonsending)
    private func storedRanges(of file: HashFile) async throws(HashTreeReader.Failure) -> [ByteRange]?
  {
    var (ranges, offset) = ([ByteRange](), UInt64(HashFileHeader.byteCount))
    while offset < file.device.byteCount {
      let extents: [Extent]
      do throws(BlockError) {
        extents = try await file.device.blockStatus(
          ByteRange(offset..<file.device.byteCount), limit: Self.extentCount - ranges.count)
      } catch {
        throw .device(error, of: file.name)
      }
      guard let last = extents.last, last.range.end > offset else { return nil }
      ranges += extents.filter { !$0.readsAsZero }.map(\.range)
      guard ranges.count < Self.extentCount else { return nil }
      offset = last.range.end
    }
    return ranges
  }
}

extension [ByteRange] {
  /// Whether one of these, which are in order, overlaps `place`.
  fileprivate func mayOverlap(_ place: ByteRange) -> Bool {
    var (low, high) = (0, count)
    while low < high {
      let middle = (low + high) / 2
      if self[middle].end <= place.offset { low = middle + 1 } else { high = middle }
    }
    return low < count && self[low].offset < place.end
  }
}

/// An increment's hash file, whose closing closes those below too.
final class HashFiles: BlockFilter {
  let next: any BlockDevice
  private let inherited: any InheritedHashes

  init(_ own: any BlockDevice, _ inherited: any InheritedHashes) {
    next = own
    self.inherited = inherited
  }

  nonisolated(nonsending)
    func change(
      _ kind: BlockChange, _ range: ByteRange,
      _ perform: nonisolated(nonsending) (ByteRange) async throws(BlockError) -> Void
    ) async throws(BlockError)
  { throw BlockError(.readOnly, kind.operation, range) }

  nonisolated(nonsending)
    func close() async throws(BlockError)
  {
    await inherited.close()
    try await next.close()
  }
}
