import BlockCore
import BlockFilters

/// What the readers of a fleecing's export reach: a disk as it was at the moment. Nothing changes it.
final class FleecedDevice: BlockFilter {
  let next: any BlockDevice
  /// Of an attached image: told which parts won't be read any more.
  private let view: PointInTimeView?
  private let release: Release

  enum Release {
    /// The device is read-only.
    case byCallsAlone
    /// A TRIM says that its reader is done with a part. The device isn't flagged read-only: clients don't send TRIM to one
    /// that is.
    case byDiscard
  }

  init(_ image: HeldImage, release: Release) {
    view = image.view
    next = view ?? AlignedAccess.over(image.image.device)
    self.release = release
  }

  var isReadOnly: Bool { release == .byCallsAlone }

  nonisolated(nonsending)
    func flush() async throws(BlockError)
  { try await view?.flush() }

  nonisolated(nonsending)
    func change(
      _ kind: BlockChange, _ range: ByteRange,
      _ perform: nonisolated(nonsending) (ByteRange) async throws(BlockError) -> Void
    ) async throws(BlockError)
  {
    guard kind == .discard, release == .byDiscard else { throw BlockError(.readOnly, kind.operation, range) }
    view?.release([range])
  }
}
