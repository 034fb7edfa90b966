import Model

extension BackupService {
  /// What happens from now on, or what has happened since the event `id` and from now on; of one job if given. A job's
  /// stream without an id begins with the oldest event of it that is kept, and ends behind its last one.
  package func events(after id: Int64? = nil, job: JobID? = nil) throws -> EventStream {
    let start = try transactions.read { catalog -> (cursor: Int64, gap: Bool) in
      if let job { _ = try catalog.find(job) }
      let span = try catalog.eventSpan()
      let newest = span?.upperBound ?? 0
      // An id from the future is of a catalog that was lost since.
      if let id { return id > newest ? (newest, true) : (max(0, id), false) }
      return job == nil ? (newest, false) : ((span?.lowerBound ?? 1) - 1, false)
    }
    return EventStream(
      feed: transactions.feed, catalog: transactions.catalog, after: start.cursor, job: job, beginsWithGap: start.gap)
  }
}
