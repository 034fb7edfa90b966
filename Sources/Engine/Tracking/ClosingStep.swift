import BlockCore

/// What stands in an image's graph for its closing alone: whatever passes was recorded above, and goes on at once.
protocol ClosingStep: BlockFilter {}

extension ClosingStep {
  func tryBegin(_ kind: BlockChange, _ range: ByteRange) -> Bool { true }

  nonisolated(nonsending)
    func change(
      _ kind: BlockChange, _ range: ByteRange,
      _ perform: nonisolated(nonsending) (ByteRange) async throws(BlockError) -> Void
    ) async throws(BlockError)
  { try await perform(range) }
}
