import Bitmaps
import BlockCore
import Bytes
import Failures
import Model
import Repositories

/// Where a backup's chunks go: leaves into the hash tree, data into the repository's new image.
///
/// An increment's image gets only what differs from its parent. The parent's hashes say which leaves do; where a bitmap
/// told the copy where to look, it is stored of them what that has.
package final class BackupSink: CopySink {
  /// What an increment builds on.
  package struct Base {
    let hashes: HashTreeReader
    let name: String
    /// Where the source may differ from it; nil: anywhere.
    let changes: DirtyBitmap?

    /// - Parameter name: what a person knows the hashes by.
    package init(hashes: HashTreeReader, name: String, changes: DirtyBitmap? = nil) {
      self.hashes = hashes
      self.name = name
      self.changes = changes
    }
  }

  private let source: String
  private let hashes: HashTreeWriter
  private let hashesName: String
  private let base: Base?
  private let target: TargetWriter
  /// Bytes of grains that differ from the parent's; without one, of those that aren't zero.
  package private(set) var changedByteCount: UInt64 = 0

  package init(
    source: String, hashes: HashTreeWriter, hashesName: String, over base: Base? = nil, target: TargetWriter
  ) {
    self.source = source
    self.hashes = hashes
    self.hashesName = hashesName
    self.base = base
    self.target = target
  }

  nonisolated(nonsending)
    package func base(of range: ByteRange, _ geometry: ChunkGeometry) async throws -> KnownBase?
  {
    guard let base else { return nil }
    let leaves = geometry.leaves(of: range)
    // Beyond its end a parent reads as zeroes.
    let known = leaves.clamped(to: 0..<base.hashes.tree.leafCount)
    do throws(HashTreeReader.Failure) {
      let unknown = [Digest](repeating: .zero, count: leaves.count - known.count)
      return KnownBase(
        leaves: try await base.hashes.leaves(known) + unknown,
        changes: base.changes?.dirtyRanges(in: range).map {
          Int($0.offset - range.offset)..<Int($0.end - range.offset)
        })
    } catch {
      throw DomainError(error, of: base.name)
    }
  }

  nonisolated(nonsending)
    package func admit(_ chunk: Chunk) async throws
  {
    if let damage = chunk.damages.first {
      throw DomainError(BlockError(.corrupt(damage.text), .read, damage.range), of: source)
    }
    if let base, chunk.step.action == .zero { chunk.narrowZeroes(to: try await zeroes(in: chunk, over: base)) }
    do throws(HashTreeReader.Failure) {
      switch chunk.step.action {
      case .copy: try await hashes.put(chunk.leaves, at: chunk.leafRange.lowerBound)
      case .zero: try await hashes.putZeroes(chunk.leafRange)
      case .skip: break
      }
    } catch {
      throw DomainError(error, of: hashesName)
    }
  }

  /// Where the parent holds something else than zeroes, neighbours joined.
  nonisolated(nonsending)
    private func zeroes(in chunk: Chunk, over base: Base) async throws -> [ByteRange]
  {
    var ranges: [ByteRange] = []
    var next = chunk.leafRange.lowerBound
    let end = min(chunk.leafRange.upperBound, base.hashes.tree.leafCount)
    do throws(HashTreeReader.Failure) {
      while next < end, let leaf = try await base.hashes.firstDataLeaf(in: next..<end) {
        let offset = leaf * UInt64(chunk.geometry.grain)
        let range = ByteRange(offset..<min(offset + UInt64(chunk.geometry.grain), chunk.range.end))
        if let last = ranges.last, last.end == range.offset {
          ranges[ranges.count - 1].length += range.length
        } else {
          ranges.append(range)
        }
        next = leaf + 1
      }
    } catch {
      throw DomainError(error, of: base.name)
    }
    return ranges
  }

  nonisolated(nonsending)
    package func store(_ chunk: Chunk) async throws
  {
    try await target.store(chunk)
    if base != nil || chunk.step.action == .copy { changedByteCount += chunk.changedByteCount }
  }
}
