import EventLoops
import Repositories

/// Where the changes of open images are recorded for after a crash.
package struct TrackingConfiguration: Sendable {
  /// What outlives a power loss: a folder of the server's own, made where it isn't there.
  package var stateFolder: String
  /// What outlives the process: a folder in memory.
  package var mapFolder: String
  /// Memory that recording all images may take.
  package var memoryByteCount: Int
  /// How much later than its last change a file is looked at, so that every later one has another time: more than any
  /// file system's clock is coarse.
  package var timeResolution: Duration
  /// How the sidecars of images are reached.
  package var openFiles: @Sendable (Folder) -> any FolderFiles

  package static let defaultTimeResolution = Duration.seconds(2)
  package static let defaultMapFolder = "/dev/shm"
  package static let defaultMemoryByteCount = 64 << 20

  package init(
    stateFolder: String, mapFolder: String = TrackingConfiguration.defaultMapFolder,
    memoryByteCount: Int = TrackingConfiguration.defaultMemoryByteCount,
    timeResolution: Duration = TrackingConfiguration.defaultTimeResolution,
    openFiles: @escaping @Sendable (Folder) -> any FolderFiles = { LocalFolderFiles($0) }
  ) {
    self.stateFolder = stateFolder
    self.mapFolder = mapFolder
    self.memoryByteCount = memoryByteCount
    self.timeResolution = timeResolution
    self.openFiles = openFiles
  }
}

/// Where the records of all images are kept.
struct CrashRecords: Sendable {
  let configuration: TrackingConfiguration
  let memory: TrackingMemory

  init(_ configuration: TrackingConfiguration) {
    self.configuration = configuration
    memory = TrackingMemory(byteCount: configuration.memoryByteCount)
  }

  func files(_ id: UInt128, on loop: EventLoop) -> RecordFiles {
    RecordFiles(id: id, configuration: configuration, memory: memory, loop: loop)
  }
}
