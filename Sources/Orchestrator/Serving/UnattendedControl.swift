import Logging
import Model

/// The engine's line for work that no job stands behind. It ends with the task that it runs in.
struct UnattendedControl: JobControl {
  let job = JobID()
  let speedLimit: UInt64 = 0
  let logger: Logger

  func report(done: UInt64, total: UInt64) {}

  func log(_ level: JobLogEntry.Level, _ message: String) {
    switch level {
    case .info: logger.info("\(message)")
    case .warning: logger.warning("\(message)")
    case .error: logger.error("\(message)")
    }
  }

  func willOverwrite() async throws {}

  func checkpoint() async throws { try Task.checkCancellation() }
}
