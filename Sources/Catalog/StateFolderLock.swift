import Foundation
import Glibc

/// The claim of one process on a state folder, held until it is released or the process ends.
///
/// It is an flock(2) on a file of its own: the kernel drops it with the process, however that ends, so that no
/// stale claim has to be judged. The file itself stays, and names the process that holds it.
final class StateFolderLock: @unchecked Sendable {
  // Safe to share: the descriptor is set once, and released once, by whoever closes the catalog.
  private var descriptor: Int32

  static let fileName = "cobweb.lock"

  /// Takes the claim at once or throws: `inUse` if another process has it.
  init(folder: String) throws(CatalogOpenError) {
    let path = folder + "/" + Self.fileName
    descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
    guard descriptor >= 0 else { throw .unusable(path: path, cause: String(cString: strerror(errno))) }
    guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
      let cause = errno
      let holder = Self.holder(in: descriptor)
      Glibc.close(descriptor)
      guard cause == EWOULDBLOCK else { throw .unusable(path: path, cause: String(cString: strerror(cause))) }
      throw .inUse(folder: folder, processID: holder)
    }
    let text = "\(getpid())\n"
    // Only for the message that another process gives: not worth failing for.
    _ = ftruncate(descriptor, 0)
    _ = pwrite(descriptor, text, text.utf8.count, 0)
  }

  deinit { release() }

  func release() {
    guard descriptor >= 0 else { return }
    Glibc.close(descriptor)
    descriptor = -1
  }

  private static func holder(in descriptor: Int32) -> Int? {
    var text = [UInt8](repeating: 0, count: 20)
    let count = pread(descriptor, &text, text.count, 0)
    guard count > 0 else { return nil }
    return Int(String(decoding: text[..<count], as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines))
  }
}
