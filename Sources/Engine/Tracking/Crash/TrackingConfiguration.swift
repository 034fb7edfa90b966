import EventLoops

/// Where the changes of open images are recorded for after a crash.
package struct TrackingConfiguration: Sendable {
  /// What outlives a power loss: a folder of the server's own, made where it isn't there.
  package var stateFolder: String
  /// What outlives the process: a folder in memory.
  package var mapFolder: String
  /// Memory that recording all images may take.
  package var memoryByteCount: Int

  package static let defaultMapFolder = "/dev/shm"
  package static let defaultMemoryByteCount = 64 << 20

  package init(
    stateFolder: String, mapFolder: String = TrackingConfiguration.defaultMapFolder,
    memoryByteCount: Int = TrackingConfiguration.defaultMemoryByteCount
  ) {
    self.stateFolder = stateFolder
    self.mapFolder = mapFolder
    self.memoryByteCount = memoryByteCount
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
