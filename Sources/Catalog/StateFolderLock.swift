import Descriptors
import Foundation
import Glibc

/// The claim of one process on a state folder, held until it is released or the process ends.
///
/// It is an flock(2) on a file of its own: the kernel drops it with the process, however that ends, so that no
/// stale claim has to be judged. The file itself stays, and names the process that holds it.
final class StateFolderLock: Sendable {
  private let file: FileDescriptor

  static let fileName = "cobweb.lock"

  /// Takes the claim at once or throws: `inUse` if another process has it.
  init(folder: String) throws(CatalogOpenError) {
    let path = folder + "/" + Self.fileName
    guard let file = FileDescriptor(result: open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)) else {
      throw .unusable(path: path, cause: String(cString: strerror(errno)))
    }
    self.file = file
    guard flock(file.rawValue, LOCK_EX | LOCK_NB) == 0 else {
      let cause = errno
      let holder = Self.holder(in: file)
      guard cause == EWOULDBLOCK else { throw .unusable(path: path, cause: String(cString: strerror(cause))) }
      throw .inUse(folder: folder, processID: holder)
    }
    let text = "\(getpid())\n"
    // Only for the message that another process gives: not worth failing for.
    _ = ftruncate(file.rawValue, 0)
    _ = pwrite(file.rawValue, text, text.utf8.count, 0)
  }

  func release() { file.close() }

  private static func holder(in file: FileDescriptor) -> Int? {
    var text = [UInt8](repeating: 0, count: 20)
    let count = pread(file.rawValue, &text, text.count, 0)
    guard count > 0 else { return nil }
    return Int(String(decoding: text[..<count], as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines))
  }
}
