import BlockCore
import Bytes

/// What a copy's target builds on, of one step.
package struct KnownBase: Sendable {
  /// One for each grain of the step: what has the same leaf is there already.
  package var leaves: [Digest]
  /// Where something else may stand, in bytes from the step's beginning, in order and apart; nil: anywhere.
  package var changes: [Range<Int>]?

  package init(leaves: [Digest], changes: [Range<Int>]? = nil) {
    self.leaves = leaves
    self.changes = changes
  }
}

/// What a copy does with its steps, chunk by chunk.
package protocol CopySink: AnyObject {
  /// What the target builds on, for a step that is to be read, so that only what differs is compressed and stored. Nil:
  /// everything is. One call at a time, and none beside ``admit(_:)``.
  nonisolated(nonsending) func base(of range: ByteRange, _ geometry: ChunkGeometry) async throws -> KnownBase?

  /// Takes note of a chunk and judges it: one call at a time, in any order, each step once.
  nonisolated(nonsending) func admit(_ chunk: Chunk) async throws

  /// Stores a chunk that was admitted: many at a time, and in any order.
  nonisolated(nonsending) func store(_ chunk: Chunk) async throws
}

extension CopySink {
  nonisolated(nonsending)
    package func base(of range: ByteRange, _ geometry: ChunkGeometry) async throws -> KnownBase?
  { nil }
}
