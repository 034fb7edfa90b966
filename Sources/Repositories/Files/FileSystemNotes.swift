import EventLoops
import Locks
import Logging

/// What file systems can't do, told in the log once for each of them.
final class FileSystemNotes: Sendable {
  static let shared = FileSystemNotes()

  private let unsynchronized = Lock<Set<UInt64>>([])
  private let logger = Logger(label: "engine")

  /// More file systems than these aren't remembered, nor told.
  private static let maximumCount = 1000

  func noteUnsynchronized(_ folder: Folder) {
    guard let device = try? folder.descriptor.status().device else { return }
    let isNew = unsynchronized.withLock { $0.count < Self.maximumCount && $0.insert(device).inserted }
    guard isNew else { return }
    logger.warning(
      """
      a file system doesn't make names in folders durable on demand: after a power cut there, what was just finished \
      may be missing
      """, metadata: ["device": "\(device >> 8):\(device & 255)"])
  }
}
