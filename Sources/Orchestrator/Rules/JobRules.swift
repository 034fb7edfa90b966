import Model

extension CatalogReading {
  /// Jobs that aren't ended. Bounded by the queue.
  func liveJobs() throws -> [Job] {
    let states = Set(JobState.allCases.filter { !$0.isEnded })
    return try allPages { try jobs(JobFilter(states: states), $0) }
  }
}
