import Bitmaps
import BlockCore
import BlockFilters
import Glibc

/// What the readers of a fleecing's export reach: a disk as it was at the moment. Nothing changes it.
final class FleecedDevice: BlockFilter {
  let next: any BlockDevice
  /// Of an attached image: told which parts won't be read any more.
  private let view: PointInTimeView?
  private let release: Release
  /// What may be read; nil: all.
  private let allowed: DirtyBitmap?

  enum Release {
    /// The device is read-only.
    case byCallsAlone
    /// A TRIM says that its reader is done with a part. The device isn't flagged read-only: clients don't send TRIM to one
    /// that is.
    case byDiscard
  }

  init(_ image: HeldImage, release: Release, allowed: DirtyBitmap?) {
    view = image.view
    next = view ?? AlignedAccess.over(image.image.device)
    self.release = release
    self.allowed = allowed
  }

  func tryRead(into buffer: inout MutableRawSpan, at offset: UInt64) throws(BlockError) -> Bool {
    try check(offset, buffer.byteCount)
    return try next.tryRead(into: &buffer, at: offset)
  }

  nonisolated(nonsending)
    func read(into buffer: inout MutableRawSpan, at offset: UInt64) async throws(BlockError)
  {
    try check(offset, buffer.byteCount)
    try await next.read(into: &buffer, at: offset)
  }

  private func check(_ offset: UInt64, _ byteCount: Int) throws(BlockError) {
    try checkRequest(.read, at: offset, length: UInt64(byteCount))
    let range = ByteRange(offset: offset, length: UInt64(byteCount))
    guard let allowed, !allowed.containsAll(of: range) else { return }
    throw BlockError(.io(errno: EPERM), .read, range, cause: "it isn't dirty, and only what is may be read")
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
