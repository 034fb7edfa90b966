/// What a copy does with its steps, chunk by chunk.
package protocol CopySink: AnyObject {
  /// Takes note of a chunk and judges it: one call at a time, in any order, each step once.
  nonisolated(nonsending) func admit(_ chunk: Chunk) async throws

  /// Stores a chunk that was admitted: many at a time, and in any order.
  nonisolated(nonsending) func store(_ chunk: Chunk) async throws
}
