import BlockCore
import Bytes

/// What a copy does with its steps, chunk by chunk.
package protocol CopySink: AnyObject {
  /// The leaves of what the target builds on, for a step that is to be read: one for each of its grains, so that only
  /// what differs is compressed and stored. Nil: everything is. One call at a time, and none beside ``admit(_:)``.
  nonisolated(nonsending) func base(of range: ByteRange, _ geometry: ChunkGeometry) async throws -> [Digest]?

  /// Takes note of a chunk and judges it: one call at a time, in any order, each step once.
  nonisolated(nonsending) func admit(_ chunk: Chunk) async throws

  /// Stores a chunk that was admitted: many at a time, and in any order.
  nonisolated(nonsending) func store(_ chunk: Chunk) async throws
}

extension CopySink {
  nonisolated(nonsending)
    package func base(of range: ByteRange, _ geometry: ChunkGeometry) async throws -> [Digest]?
  { nil }
}
