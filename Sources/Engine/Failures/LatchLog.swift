import BlockCore
import Locks
import Logging
import Model

/// Tells of what makes one opened image refuse to be written: in the log as an error, and to the service.
///
/// A failure passes through several devices, the file and the format, and each latches and reports it: it is told once.
final class LatchLog: Sendable {
  private let image: ImageID?
  private let logger: Logger
  private let deliver: @Sendable (ImageFailure) -> Void
  // Each device of the image latches once, which bounds their number.
  private let told = Lock<Set<BlockError>>([])

  /// - Parameter image: nil for an image that is open for a job, whose error tells the same.
  init(of image: ImageID?, _ logger: Logger, deliver: @escaping @Sendable (ImageFailure) -> Void) {
    self.image = image
    self.logger = logger
    self.deliver = deliver
  }

  /// What the device over the file at `path` is to call.
  func report(of path: String) -> LatchReport {
    { [self] error in
      guard told.withLock({ $0.insert(error).inserted }) else { return }
      var metadata: Logger.Metadata = [
        "file": "\(path)", "operation": "\(error.operation.rawValue)", "error": "\(error)",
      ]
      if let image { metadata["image"] = "\(image)" }
      if let range = error.range { metadata["offset"] = "\(range.offset)" }
      if let code = error.errorNumber { metadata["errno"] = "\(code)" }
      logger.error("an image is written no more until it is opened anew", metadata: metadata)
      guard let image else { return }
      deliver(
        ImageFailure(
          image: image, operation: error.operation.rawValue, offset: error.range?.offset, errno: error.errorNumber,
          detail: "\(path): \(error)"))
    }
  }
}

extension BlockError {
  /// What the kernel answered, where it was the kernel.
  fileprivate var errorNumber: Int32? { if case .io(let code) = kind { code } else { nil } }
}
