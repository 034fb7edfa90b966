import Bytes
import BlockCore
import BlockTesting
import Model
import Repositories
import Testing

/// A tree is the same whatever the order in which its leaves come, and whether they come or are the parent's.
struct HashTreeOrderTests {
  private static let backup = BackupID()
  private static let grain = UInt64(HashTree.grainByteCount)

  /// What is put at once.
  private struct Piece {
    var leaves: Range<Int>
    var isZero: Bool
  }

  private static func leaf(_ random: inout SeededRandom) -> Digest {
    let bytes = random.bytes(8)
    return Digest(of: bytes.span.bytes)
  }

  private func leaves(_ count: Int, _ random: inout SeededRandom) -> [Digest] {
    var leaves: [Digest] = []
    while leaves.count < count {
      let run = min(1 + random.below(random.oneIn(3) ? 400 : 20), count - leaves.count)
      let isZero = random.oneIn(2)
      leaves += (0..<run).map { _ in isZero ? .zero : Self.leaf(&random) }
    }
    return leaves
  }

  /// The leaves of `range` cut into pieces, those of zeroes apart, in some order.
  private func pieces(_ leaves: [Digest], _ range: Range<Int>, _ random: inout SeededRandom) -> [Piece] {
    var pieces: [Piece] = []
    var start = range.lowerBound
    while start < range.upperBound {
      let limit = min(start + 1 + random.below(random.oneIn(4) ? 700 : 40), range.upperBound)
      let isZero = leaves[start] == .zero
      let end = leaves[start..<limit].firstIndex { ($0 == .zero) != isZero } ?? limit
      pieces.append(Piece(leaves: start..<end, isZero: isZero))
      start = end
    }
    for index in pieces.indices.reversed() { pieces.swapAt(index, random.below(index + 1)) }
    return pieces
  }

  nonisolated(nonsending)
    private func put(_ pieces: [Piece], of leaves: [Digest], into writer: HashTreeWriter) async throws
  {
    for piece in pieces {
      if piece.isZero {
        try await writer.putZeroes(UInt64(piece.leaves.lowerBound)..<UInt64(piece.leaves.upperBound))
      } else {
        try await writer.put(Array(leaves[piece.leaves]), at: UInt64(piece.leaves.lowerBound))
      }
    }
  }

  /// In the order of the disk, one by one.
  nonisolated(nonsending)
    private func linear(_ leaves: [Digest], byteCount: UInt64) async throws -> (root: Digest, file: MemoryDevice)
  {
    let file = MemoryDevice(byteCount: 0)
    let writer = try await HashTreeWriter(HashTree(byteCount: byteCount), to: file, work: InlineWork())
    for (index, leaf) in leaves.enumerated() { try await writer.put([leaf], at: UInt64(index)) }
    return (try await writer.finish(backup: Self.backup), file)
  }

  /// More pages are begun than stay in memory.
  @Test(arguments: [1, 128, 129, 300, 16384, 16500, 40_000])
  func anyOrderGivesTheSameFile(_ count: Int) async throws {
    for seed in 1...UInt64(TestEffort.rounds(3)) {
      var random = SeededRandom(seed: seed &* 1000 &+ UInt64(count))
      let leaves = leaves(count, &random)
      let byteCount = UInt64(count) * Self.grain - UInt64(random.below(1000))
      let expected = try await linear(leaves, byteCount: byteCount)
      let file = MemoryDevice(byteCount: 0)
      let writer = try await HashTreeWriter(HashTree(byteCount: byteCount), to: file, work: InlineWork())
      try await put(pieces(leaves, 0..<count, &random), of: leaves, into: writer)
      #expect(try await writer.finish(backup: Self.backup) == expected.root, "\(random)")
      #expect(try await file.readAll() == expected.file.readAll(), "\(random)")
    }
  }

  /// Leaves that don't come are the parent's, also where the disk grew or shrank.
  @Test(arguments: [1, 129, 300, 16384, 16500, 40_000], [-20_000, -130, -1, 0, 1, 130, 20_000])
  func leavesThatDontComeAreTheParents(_ count: Int, growth: Int) async throws {
    guard count + growth > 0 else { return }
    var random = SeededRandom(seed: UInt64(count) &* 31 &+ UInt64(bitPattern: Int64(growth)))
    let short = UInt64(random.below(2) * 77)
    let parentLeaves = leaves(count, &random)
    let parent = try await linear(parentLeaves, byteCount: UInt64(count) * Self.grain - short)
    let byteCount = UInt64(count + growth) * Self.grain - (growth == 0 ? short : UInt64(random.below(2) * 99))

    // The grains that are the same in both may stay out, most of them in long runs.
    let common = growth == 0 ? count : Int(min(byteCount, UInt64(count) * Self.grain - short) / Self.grain)
    var whole = Array(parentLeaves.prefix(common)) + leaves(count + growth - common, &random)
    var changed = [common..<count + growth]
    var position = random.below(common + 1)
    while position < common {
      let end = min(position + 1 + random.below(30), common)
      for index in position..<end { whole[index] = random.oneIn(3) ? .zero : Self.leaf(&random) }
      changed.append(position..<end)
      position = end + 1 + random.below(random.oneIn(2) ? 9000 : 100)
    }
    let expected = try await linear(whole, byteCount: byteCount)

    let below = try await HashFile(
      parent.file, expecting: parent.root, byteCount: UInt64(count) * Self.grain - short, backup: Self.backup)
    let reader = try await HashTreeReader(
      parent.file, expecting: parent.root, byteCount: UInt64(count) * Self.grain - short, backup: Self.backup,
      work: InlineWork())
    let file = MemoryDevice(byteCount: 0)
    let writer = try await HashTreeWriter(
      HashTree(byteCount: byteCount), over: reader, to: file, work: InlineWork())
    for range in changed { try await put(pieces(whole, range, &random), of: whole, into: writer) }
    #expect(try await writer.finish(backup: Self.backup) == expected.root, "\(random)")

    // What it leaves out is the parent's.
    let child = try await HashTreeReader(
      file, expecting: expected.root, byteCount: byteCount, backup: Self.backup, over: HashLayers([below]),
      work: InlineWork())
    try await child.proveAll {}
    #expect(try await child.leaves(0..<UInt64(whole.count)) == whole, "\(random)")
    let stored = try await file.blockStatus(ByteRange(offset: 0, length: file.byteCount), limit: .max)
    let pages = stored.filter { !$0.readsAsZero }.reduce(0) { $0 + Int($1.range.length) } / HashTree.pageByteCount
    #expect(pages <= 2 + Self.pageCount(over: changed), "\(random)")

    // The leaves that differ are the ones that were changed, and no others.
    var (next, differing) = (UInt64(0), Set<Int>())
    let end = UInt64(max(whole.count, parentLeaves.count))
    while let run = try await child.firstDifference(from: reader, in: next..<end, limit: 700) {
      differing.formUnion(Int(run.lowerBound)..<Int(run.upperBound))
      next = run.upperBound
    }
    let all = (0..<Int(end)).filter { index in
      (index < whole.count ? whole[index] : .zero) != (index < parentLeaves.count ? parentLeaves[index] : .zero)
    }
    #expect(differing == Set(all), "\(random)")
  }

  /// Pages that can differ at most where these leaves do.
  private static func pageCount(over changed: [Range<Int>]) -> Int {
    var pages: Set<[Int]> = []
    for range in changed where !range.isEmpty {
      for level in 1...3 {
        for page in range.lowerBound >> (7 * level)...(range.upperBound - 1) >> (7 * level) {
          pages.insert([level, page])
        }
      }
    }
    return pages.count
  }

  /// The parent's file is proven as it is read.
  @Test func damagedParentIsNoParent() async throws {
    var random = SeededRandom(seed: 7)
    let all = leaves(5000, &random)
    let byteCount = 5000 * Self.grain
    let parent = try await linear(all, byteCount: byteCount)
    let reader = try await HashTreeReader(
      parent.file, expecting: parent.root, byteCount: byteCount, backup: Self.backup, work: InlineWork())
    try await parent.file.writeBytes([0x5A], at: UInt64(HashTree.pageByteCount) * 20 + 1)
    let below = try await HashFile(parent.file, expecting: parent.root, byteCount: byteCount, backup: Self.backup)
    let changed: [UInt64] = [0, 2432]
    for leaf in changed {
      let file = MemoryDevice(byteCount: 0)
      let writer = try await HashTreeWriter(
        HashTree(byteCount: byteCount), over: reader, to: file, work: InlineWork())
      try await writer.put([Self.leaf(&random)], at: leaf)
      guard leaf == 0 else {
        // The rest of the damaged page is needed.
        await #expect(throws: HashTreeReader.Failure.self) { _ = try await writer.finish(backup: Self.backup) }
        continue
      }
      let root = try await writer.finish(backup: Self.backup)
      let child = try await HashTreeReader(
        file, expecting: root, byteCount: byteCount, backup: Self.backup, over: HashLayers([below]), work: InlineWork())
      #expect(try await child.leaves(1..<128) == all[1..<128].map(\.self))
      await #expect(throws: HashTreeReader.Failure.self) { _ = try await child.leaves(UInt64(2432)..<2560) }
      await #expect(throws: HashTreeReader.Failure.self) { try await child.proveAll {} }
    }
  }

  /// Chunks in flight end in no order, but near each other: their leaves cost no page twice.
  @Test func readingNearbyReadsEachPageOnce() async throws {
    var random = SeededRandom(seed: 13)
    let all = leaves(4000, &random)
    let made = try await linear(all, byteCount: 4000 * Self.grain)
    let reader = try await HashTreeReader(
      made.file, expecting: made.root, byteCount: 4000 * Self.grain, backup: Self.backup, work: InlineWork())
    let before = made.file.calls[.read]
    for window in stride(from: 0, to: 4000, by: 250) {
      var order = Array(window..<window + 250)
      for index in order.indices.reversed() { order.swapAt(index, random.below(index + 1)) }
      for leaf in order { #expect(try await reader.leaves(UInt64(leaf)..<UInt64(leaf + 1)) == [all[leaf]]) }
    }
    // 32 pages of leaves, and one above.
    #expect(made.file.calls[.read] - before == 33)
  }

  /// The file fails at each call in turn: no root comes out of a file that doesn't hold it.
  @Test func faultAtAnyCallEndsTheTree() async throws {
    var random = SeededRandom(seed: 11)
    let all = leaves(16_500, &random)
    let byteCount = 16_500 * Self.grain
    let expected = try await linear(all, byteCount: byteCount)
    let order = pieces(all, 0..<all.count, &random)
    var isOver = false
    var call = 1
    while !isOver {
      let memory = MemoryDevice(byteCount: 0)
      let file = FaultyDevice(memory, fault: Fault(atCall: call))
      do {
        let writer = try await HashTreeWriter(HashTree(byteCount: byteCount), to: file, work: InlineWork())
        try await put(order, of: all, into: writer)
        #expect(try await writer.finish(backup: Self.backup) == expected.root)
        #expect(try await memory.readAll() == expected.file.readAll())
        isOver = true
      } catch is HashTreeReader.Failure {
        // Few of the calls, evenly spread, where there are many.
        call += 1 + call / 20
      }
    }
    #expect(call > 20)
  }
}

/// Hash files below another one, the nearest first.
final class HashLayers: InheritedHashes {
  let files: [HashFile]

  init(_ files: [HashFile]) { self.files = files }

  nonisolated(nonsending)
    func page(
      _ index: UInt64, ofLevel level: Int, under node: Digest
    ) async throws(HashTreeReader.Failure) -> [Digest]
  {
    for file in files {
      if let nodes = try await file.page(index, ofLevel: level, under: node, InlineWork()) { return nodes }
    }
    throw .damaged(HashFileDamage("nothing below has the page"))
  }

  nonisolated(nonsending)
    func close() async
  {}
}
