import BlockCore
import Buffers
import Failures
import Model
import Qcow2
import Repositories

/// Writes what a copy brings into its target: a new qcow2 image of a backup, or whatever is restored to.
package final class TargetWriter {
  /// What becomes of zeroes.
  package enum Zeroes: Sendable {
    /// Nothing: the target reads as zeroes wherever nothing is written.
    case leave
    /// They are written: the target, or what it builds on, holds something else.
    case write
  }

  private let target: any BlockDevice
  /// The target, where it takes compressed clusters.
  private let image: Qcow2Image?
  private let name: String
  private let zeroes: Zeroes
  private let blockByteCount: Int
  private let control: any JobControl
  /// Bytes that were written as they are because they aren't zero.
  package private(set) var writtenByteCount: UInt64 = 0

  /// Longest range of zeroes that the target is told of at once: it may have to write them all.
  private static let zeroesAtOnce: UInt64 = 128 << 20

  /// - Parameter name: what a person knows the target by.
  package init(
    _ target: any BlockDevice, name: String, zeroes: Zeroes, geometry: ChunkGeometry = .standard,
    control: any JobControl
  ) {
    self.target = target
    image = target as? Qcow2Image
    self.name = name
    self.zeroes = zeroes
    self.control = control
    blockByteCount = Self.blockByteCount(of: target.limits, geometry)
  }

  /// What the target can leave out by itself, at least a page: zeroes of that size stay holes. A grain, or a cluster
  /// that is smaller, where the target stores in larger units.
  private static func blockByteCount(of limits: BlockLimits, _ geometry: ChunkGeometry) -> Int {
    let largest = min(geometry.grain, geometry.cluster)
    let block = max(pageByteCount, limits.requestAlignment, limits.preferredByteCount)
    return largest % block == 0 ? block : largest
  }

  nonisolated(nonsending)
    package func store(_ chunk: Chunk) async throws
  {
    switch chunk.step.action {
    case .skip: return
    case .zero: for range in chunk.zeroRanges { try await zero(range) }
    case .copy:
      try await storeCompressed(chunk)
      for run in chunk.plainRuns(of: blockByteCount) {
        let offset = chunk.range.offset + UInt64(run.range.lowerBound)
        if run.isZero {
          try await zero(ByteRange(offset: offset, length: UInt64(run.range.count)))
        } else {
          try await write(chunk.bytes.extracting(run.range), at: offset)
        }
      }
    }
  }

  nonisolated(nonsending)
    private func storeCompressed(_ chunk: Chunk) async throws
  {
    guard !chunk.compressed.isEmpty else { return }
    guard let image else { preconditionFailure("compressed clusters for a target that takes none") }
    do throws(BlockError) {
      try await image.writeCompressed(chunk.compressed, from: chunk.compressedBytes)
    } catch {
      throw DomainError(error, of: name)
    }
  }

  nonisolated(nonsending)
    private func write(_ bytes: RawSpan, at offset: UInt64) async throws
  {
    do throws(BlockError) {
      try await target.write(bytes, at: offset, options: [])
    } catch {
      throw DomainError(error, of: name)
    }
    writtenByteCount += UInt64(bytes.byteCount)
  }

  nonisolated(nonsending)
    private func zero(_ range: ByteRange) async throws
  {
    guard zeroes == .write else { return }
    var offset = range.offset
    while offset < range.end {
      let length = min(range.end - offset, Self.zeroesAtOnce)
      do throws(BlockError) {
        try await target.writeZeroes(ByteRange(offset: offset, length: length), options: .mayUnmap)
      } catch {
        throw DomainError(error, of: name)
      }
      offset += length
      if offset < range.end { try await control.checkpoint() }
    }
  }
}
