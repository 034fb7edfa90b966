import CLiburing
import Glibc

/// Pieces of memory to send one after the other, and how far that has come.
struct GatheredMessage {
  /// What one `sendmsg` takes (IOV_MAX).
  private static let piecesPerCall = 1024

  private struct Progress {
    var count = 0
    var first = 0
  }

  private let pieces: UnsafeMutablePointer<iovec>
  private let header = UnsafeMutablePointer<msghdr>.allocate(capacity: 1)
  private let progress = UnsafeMutablePointer<Progress>.allocate(capacity: 1)

  init(capacity: Int) {
    pieces = .allocate(capacity: max(1, capacity))
    header.initialize(to: msghdr())
    progress.initialize(to: Progress())
  }

  func deallocate() {
    pieces.deallocate()
    header.deallocate()
    progress.deallocate()
  }

  /// The memory must stay put until all is sent.
  func append(_ bytes: RawSpan) {
    bytes.withUnsafeBytes { bytes in
      guard bytes.count > 0 else { return }
      let base = UnsafeMutableRawPointer(mutating: bytes.baseAddress)
      (pieces + progress.pointee.count).initialize(to: iovec(iov_base: base, iov_len: bytes.count))
      progress.pointee.count += 1
    }
  }

  /// What to send next, nil when all is sent.
  func next() -> UnsafeMutablePointer<msghdr>? {
    let left = progress.pointee.count - progress.pointee.first
    guard left > 0 else { return nil }
    header.pointee.msg_iov = pieces + progress.pointee.first
    header.pointee.msg_iovlen = min(left, Self.piecesPerCall)
    return header
  }

  /// Takes off the `sent` bytes from the front.
  func advance(_ sent: Int) {
    var sent = sent
    while progress.pointee.first < progress.pointee.count {
      let piece = pieces + progress.pointee.first
      if sent < piece.pointee.iov_len {
        piece.pointee.iov_base += sent
        piece.pointee.iov_len -= sent
        return
      }
      sent -= piece.pointee.iov_len
      progress.pointee.first += 1
    }
  }
}
