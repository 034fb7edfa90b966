import Bytes
import BlockCore
import BlockTesting
import Model
import Repositories
import Testing

/// The tree's root is a function of size and bytes alone, however the leaves come in; its file proves itself.
struct HashTreeTests {
  private static let backup = BackupID()

  private static func leaf(_ number: UInt64) -> Digest {
    let bytes = (0..<8).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) }
    return Digest(of: bytes.span.bytes)
  }

  /// The root as its definition has it, with all nodes in memory.
  private func plainRoot(_ leaves: [Digest], byteCount: UInt64) -> Digest {
    let tree = HashTree(byteCount: byteCount)
    // Stored levels are seven apart, and the top one is a whole page.
    var nodes = leaves
    var width = 1
    for _ in tree.storedLevels.indices { width *= HashTree.nodesPerPage }
    nodes += Array(repeating: .zero, count: max(0, (leaves.isEmpty ? 0 : width) - leaves.count))
    while nodes.count > HashTree.nodesPerPage {
      nodes = (0..<nodes.count / 2).map { HashTree.node(nodes[2 * $0], nodes[2 * $0 + 1]) }
    }
    return tree.root(topPage: nodes)
  }

  @Test(arguments: [0, 1, 2, 127, 128, 129, 300, 16384, 16500] as [UInt64])
  func rootIsTheSameHoweverTheLeavesCome(_ count: UInt64) async throws {
    var random = SeededRandom(seed: count)
    let byteCount = count * UInt64(HashTree.grainByteCount)
    // Runs of zeroes, some longer than a page.
    var leaves: [Digest] = []
    while leaves.count < Int(count) {
      let run = min(1 + random.below(random.oneIn(3) ? 400 : 20), Int(count) - leaves.count)
      let isZero = random.oneIn(2)
      leaves += (0..<run).map { _ in isZero ? .zero : Self.leaf(random.next()) }
    }
    let expected = plainRoot(leaves, byteCount: byteCount)
    for joinsZeroes in [false, true] {
      let file = MemoryDevice(byteCount: 0)
      let root = try await write(leaves, byteCount: byteCount, joinsZeroes: joinsZeroes, to: file)
      #expect(root == expected, "\(random)")
      let reader = try await HashTreeReader(
        file, expecting: root, byteCount: byteCount, backup: Self.backup, work: InlineWork())
      try await reader.proveAll {}
      #expect(try await reader.leaves(0..<count) == leaves)
      for _ in 0..<min(count, 20) {
        let start = UInt64(random.below(Int(count)))
        let end = start + UInt64(random.below(Int(count - start) + 1))
        let found = leaves[Int(start)..<Int(end)].firstIndex { $0 != .zero }.map(UInt64.init)
        #expect(try await reader.firstDataLeaf(in: start..<end) == found, "\(start)..<\(end), \(random)")
      }
    }
  }

  nonisolated(nonsending)
    private func write(
      _ leaves: [Digest], byteCount: UInt64, joinsZeroes: Bool, to file: MemoryDevice
    ) async throws -> Digest
  {
    let writer = try await HashTreeWriter(HashTree(byteCount: byteCount), to: file, work: InlineWork())
    var index = 0
    while index < leaves.count {
      let isZero = leaves[index] == .zero
      let end = leaves[index...].firstIndex { ($0 == .zero) != isZero } ?? leaves.count
      if isZero, joinsZeroes {
        try await writer.putZeroes(UInt64(index)..<UInt64(end))
      } else {
        try await writer.put(Array(leaves[index..<end]), at: UInt64(index))
      }
      index = end
    }
    return try await writer.finish(backup: Self.backup)
  }

  @Test func everyChangedByteOfTheFileIsFound() async throws {
    let count: UInt64 = 200
    let byteCount = count * UInt64(HashTree.grainByteCount) - 5
    let leaves = (0..<count).map { $0 % 3 == 0 ? Digest.zero : Self.leaf($0) }
    let file = MemoryDevice(byteCount: 0)
    let root = try await write(leaves, byteCount: byteCount, joinsZeroes: true, to: file)
    let sound = file.image
    for offset in stride(from: 0, to: file.byteCount, by: 61) {
      var bytes = try await file.readBytes(1, at: offset)
      bytes[0] ^= 1
      try await file.writeBytes(bytes, at: offset)
      await #expect(throws: HashTreeReader.Failure.self, "byte \(offset)") {
        let reader = try await HashTreeReader(
          file, expecting: root, byteCount: byteCount, backup: Self.backup, work: InlineWork())
        try await reader.proveAll {}
      }
      file.image = sound
    }
  }

  @Test func fileOfAnotherBackupSizeOrRootIsRefused() async throws {
    let file = MemoryDevice(byteCount: 0)
    let root = try await write([Self.leaf(1)], byteCount: 65536, joinsZeroes: true, to: file)
    for (root, byteCount, backup) in [
      (Self.leaf(2), 65536, Self.backup), (root, 65535, Self.backup), (root, 65536, BackupID()),
    ] as [(Digest, UInt64, BackupID)] {
      await #expect(throws: HashTreeReader.Failure.self) {
        _ = try await HashTreeReader(file, expecting: root, byteCount: byteCount, backup: backup, work: InlineWork())
      }
    }
  }

  @Test func zeroesAndSizeDecideTheRoot() {
    let zeroes = [UInt8](repeating: 0, count: 65536)
    #expect(HashTree.leaf(of: zeroes.span.bytes) == .zero)
    #expect(HashTree.node(.zero, .zero) == .zero)
    let one = Self.leaf(1)
    #expect(HashTree.node(one, .zero) != HashTree.node(.zero, one))
    let page = [Digest](repeating: .zero, count: HashTree.nodesPerPage)
    #expect(HashTree(byteCount: 65536).root(topPage: page) != HashTree(byteCount: 65535).root(topPage: page))
    // A terabyte: leaves, and two levels above that are stored.
    let tree = HashTree(byteCount: 1 << 40)
    #expect(tree.leafCount == 1 << 24)
    #expect(tree.storedLevels.map(\.nodeCount) == [1 << 24, 1 << 17, 1 << 10, 8])
  }

  /// A hole where the tree has data is damage, and so is data where the tree has none.
  @Test func everyPageThatIsLostOrStrayIsFound() async throws {
    let count: UInt64 = 128 * 128 * 2
    let byteCount = count * UInt64(HashTree.grainByteCount)
    let leaves = (0..<count).map { $0 / 128 % 16 == 1 ? Self.leaf($0) : Digest.zero }
    let file = MemoryDevice(byteCount: 0)
    let root = try await write(leaves, byteCount: byteCount, joinsZeroes: true, to: file)
    let sound = file.image
    let page = UInt64(HashTree.pageByteCount)
    for offset in stride(from: page, to: file.byteCount, by: Int(page)) {
      let bytes = try await file.readBytes(Int(page), at: offset)
      if bytes.allSatisfy({ $0 == 0 }) {
        try await file.writeBytes([1], at: offset + page - 1)
      } else {
        try await file.writeZeroes(ByteRange(offset: offset, length: page), options: [.mayUnmap])
      }
      await #expect(throws: HashTreeReader.Failure.self, "the page at \(offset)") {
        let reader = try await HashTreeReader(
          file, expecting: root, byteCount: byteCount, backup: Self.backup, work: InlineWork())
        try await reader.proveAll {}
      }
      file.image = sound
    }
  }

  @Test func provingCostsWhatIsStored() async throws {
    // 16 TiB with data at its beginning and its end.
    let tree = HashTree(byteCount: 1 << 44)
    let file = MemoryDevice(byteCount: 0)
    let writer = try await HashTreeWriter(tree, to: file, work: InlineWork())
    try await writer.put((0..<16).map(Self.leaf), at: 0)
    try await writer.putZeroes(16..<tree.leafCount - 1)
    try await writer.put([Self.leaf(17)], at: tree.leafCount - 1)
    let root = try await writer.finish(backup: Self.backup)
    let reader = try await HashTreeReader(
      file, expecting: root, byteCount: 1 << 44, backup: Self.backup, work: InlineWork())
    let before = file.calls[.read]
    try await reader.proveAll {}
    #expect(file.calls[.read] - before < 64)
  }
}
