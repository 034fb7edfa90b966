import Bytes
import BlockCore
import Buffers
import Glibc
import Locks
import Qcow2
import Repositories

/// Lends codec contexts to the workers, one to each at a time.
package final class CompressorShelf: Sendable {
  private let make: @Sendable () throws -> ClusterCompressor
  private let free = Lock<[ClusterCompressor]>([])

  package init(level: Int) throws {
    make = {
      try ClusterCompressor(type: .zstd, level: level, clusterByteCount: HashTree.grainByteCount)
    }
    // The level is known to be good from here on.
    let first = try make()
    free.withLock { $0 = [first] }
  }

  func with<Result>(_ body: (ClusterCompressor) throws -> Result) rethrows -> Result? {
    guard let compressor = free.withLock({ $0.popLast() }) ?? (try? make()) else { return nil }
    defer { free.withLock { $0.append(compressor) } }
    return try body(compressor)
  }
}

/// One run of grains on its way: what was read, and what the worker made of it.
///
/// Its memory is used again for the next run. One lane owns it; the worker has it while the lane waits.
package final class Chunk: @unchecked Sendable {
  // Safe to hand over: exactly one of lane, worker and sink uses it at a time.

  /// A stretch of bytes that couldn't be read because what stores them is damaged.
  package struct Damage: Hashable, Sendable {
    package var range: ByteRange
    package var text: String
  }

  static let byteCount = Int(ChunkPlanner.chunkByteCount)
  private static let grain = HashTree.grainByteCount

  package private(set) var plan = ChunkPlan(
    zeroes: ByteRange(offset: 0, length: 0), data: ByteRange(offset: 0, length: 0))
  private let input: UnsafeMutableRawPointer
  /// Made when the first cluster is compressed.
  private var output: UnsafeMutableRawPointer?
  /// One for each grain of the data.
  package private(set) var leaves: [Digest] = []
  package private(set) var damages: [Damage] = []
  /// Clusters that shrank, packed in ``compressedBytes`` in this order.
  package private(set) var compressed: [CompressedCluster] = []
  private var compressedByteCount = 0

  package init() { input = .allocate(byteCount: Self.byteCount, alignment: pageByteCount) }

  deinit {
    input.deallocate()
    output?.deallocate()
  }

  package var data: ByteRange { plan.data }
  package var bytes: RawSpan {
    @_lifetime(borrow self)
    get { _overrideLifetime(RawSpan(_unsafeStart: input, byteCount: Int(plan.data.length)), borrowing: self) }
  }

  /// Reads the plan's data. Where the device says that it is damaged, the rest is read grain by grain.
  nonisolated(nonsending)
    package func read(_ plan: ChunkPlan, from device: any BlockDevice) async throws(BlockError)
  {
    self.plan = plan
    leaves.removeAll(keepingCapacity: true)
    damages.removeAll()
    compressed.removeAll(keepingCapacity: true)
    compressedByteCount = 0
    guard !plan.data.isEmpty else { return }
    do throws(BlockError) {
      try await read(0..<Int(plan.data.length), from: device)
    } catch {
      guard case .corrupt = error.kind else { throw error }
      try await readByGrain(from: device)
    }
  }

  nonisolated(nonsending)
    private func read(_ part: Range<Int>, from device: any BlockDevice) async throws(BlockError)
  {
    var span = MutableRawSpan(_unsafeStart: input + part.lowerBound, byteCount: part.count)
    try await device.read(into: &span, at: plan.data.offset + UInt64(part.lowerBound))
  }

  nonisolated(nonsending)
    private func readByGrain(from device: any BlockDevice) async throws(BlockError)
  {
    for start in stride(from: 0, to: Int(plan.data.length), by: Self.grain) {
      let part = start..<min(start + Self.grain, Int(plan.data.length))
      do throws(BlockError) {
        try await read(part, from: device)
      } catch {
        guard case .corrupt(let text) = error.kind else { throw error }
        damages.append(
          Damage(range: ByteRange(offset: plan.data.offset + UInt64(start), length: UInt64(part.count)), text: text))
      }
    }
  }

  /// Hashes each grain, and compresses each that isn't zero. Runs on a worker.
  package func process(_ compressors: CompressorShelf?) {
    let count = Int(plan.data.length)
    // The last cluster of an image is stored whole.
    let padded = (count + Self.grain - 1) / Self.grain * Self.grain
    memset(input + count, 0, padded - count)
    for start in stride(from: 0, to: count, by: Self.grain) {
      let end = min(start + Self.grain, count)
      leaves.append(HashTree.leaf(of: RawSpan(_unsafeStart: input + start, byteCount: end - start)))
    }
    if let compressors { _ = compressors.with { compress(with: $0) } }
  }

  private func compress(with compressor: ClusterCompressor) {
    let output =
      output ?? .allocate(byteCount: Self.byteCount + Self.grain, alignment: pageByteCount)
    self.output = output
    for (index, leaf) in leaves.enumerated() where leaf != .zero {
      let start = index * Self.grain
      var room = MutableRawSpan(_unsafeStart: output + compressedByteCount, byteCount: Self.grain)
      let cluster = RawSpan(_unsafeStart: input + start, byteCount: Self.grain)
      guard let size = compressor.compress(cluster, into: &room) else { continue }
      compressed.append(CompressedCluster(guestOffset: plan.data.offset + UInt64(start), byteCount: size))
      compressedByteCount += size
    }
  }

  /// The packed bytes of ``compressed``; there are some.
  package var compressedBytes: RawSpan {
    @_lifetime(borrow self)
    get {
      guard let output else { return _overrideLifetime(RawSpan(), borrowing: self) }
      return _overrideLifetime(RawSpan(_unsafeStart: output, byteCount: compressedByteCount), borrowing: self)
    }
  }

  /// The runs of grains that are neither zero nor compressed, as positions in ``bytes``.
  package var plainRuns: [Range<Int>] {
    var compressedGrains = Set<UInt64>()
    for cluster in compressed { compressedGrains.insert(cluster.guestOffset) }
    return runs { [offset = plan.data.offset] leaf, start in
      leaf != .zero && !compressedGrains.contains(offset + UInt64(start))
    }
  }

  /// A run of blocks that are all zero, or of which none is.
  package struct BlockRun: Hashable, Sendable {
    /// Positions in ``Chunk/bytes``.
    package var range: Range<Int>
    package var isZero: Bool
  }

  /// The data cut into zeroes and what isn't, by blocks of `blockByteCount` bytes, which divides a grain.
  package func blockRuns(of blockByteCount: Int) -> [BlockRun] {
    var runs: [BlockRun] = []
    for (index, leaf) in leaves.enumerated() {
      let end = min((index + 1) * Self.grain, Int(plan.data.length))
      let step = leaf == .zero ? Self.grain : blockByteCount
      for start in stride(from: index * Self.grain, to: end, by: step) {
        let block = start..<min(start + step, end)
        let isZero = leaf == .zero || bytes.extracting(block).isZero
        if let last = runs.last, last.isZero == isZero {
          runs[runs.count - 1].range = last.range.lowerBound..<block.upperBound
        } else {
          runs.append(BlockRun(range: block, isZero: isZero))
        }
      }
    }
    return runs
  }

  private func runs(_ isWanted: (_ leaf: Digest, _ start: Int) -> Bool) -> [Range<Int>] {
    var runs: [Range<Int>] = []
    for (index, leaf) in leaves.enumerated() {
      let start = index * Self.grain
      guard isWanted(leaf, start) else { continue }
      let end = min(start + Self.grain, Int(plan.data.length))
      if let last = runs.last, last.upperBound == start {
        runs[runs.count - 1] = last.lowerBound..<end
      } else {
        runs.append(start..<end)
      }
    }
    return runs
  }

  /// Bytes of grains that aren't zero.
  package var dataByteCount: UInt64 {
    UInt64(runs { leaf, _ in leaf != .zero }.reduce(0) { $0 + $1.count })
  }
}
