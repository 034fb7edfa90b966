import EventLoops
import Locks

/// Where the changes of open images are recorded for after a crash.
package struct TrackingConfiguration: Sendable {
  /// What outlives a power loss: a folder of the server's own, made where it isn't there.
  package var stateFolder: String
  /// What outlives the process: a folder in memory.
  package var mapFolder: String
  /// Memory that the maps of all images may take there.
  package var mapByteCount: Int

  package static let defaultMapFolder = "/dev/shm"
  package static let defaultMapByteCount = 64 << 20

  package init(
    stateFolder: String, mapFolder: String = TrackingConfiguration.defaultMapFolder,
    mapByteCount: Int = TrackingConfiguration.defaultMapByteCount
  ) {
    self.stateFolder = stateFolder
    self.mapFolder = mapFolder
    self.mapByteCount = mapByteCount
  }
}

/// Bytes that several parties share.
final class ByteBudget: Sendable {
  private let left: Lock<Int>

  init(_ byteCount: Int) { left = Lock(byteCount) }

  func take(_ byteCount: Int) -> Bool {
    left.withLock { left in
      guard left >= byteCount else { return false }
      left -= byteCount
      return true
    }
  }

  func giveBack(_ byteCount: Int) { left.withLock { $0 += byteCount } }
}

/// Where the records of all images are kept.
struct CrashRecords: Sendable {
  let configuration: TrackingConfiguration
  private let budget: ByteBudget

  init(_ configuration: TrackingConfiguration) {
    self.configuration = configuration
    budget = ByteBudget(configuration.mapByteCount)
  }

  func files(_ id: UInt128, on loop: EventLoop) -> RecordFiles {
    RecordFiles(id: id, configuration: configuration, budget: budget, loop: loop)
  }
}
