import Model

/// A job as the API shows it.
struct JobDocument: JSONWritable, Sendable {
  let job: Job

  init(_ job: Job) {
    self.job = job
  }

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("id", job.id)
      json.member("kind", job.request.kind)
      json.member("state", job.state)
      json.member("progress", ProgressDocument(job.progress))
      json.member("createdAt", job.createdAt)
      json.member("startedAt", job.startedAt)
      json.member("finishedAt", job.finishedAt)
      json.member("waitingFor", job.waitingFor)
      json.member("pausedUntil", job.pausedUntil)
      json.member("retryOf", job.retryOf)
      json.member("result", job.result)
      json.member("error", job.error.map { ProblemDocument($0, job: job.id) })
      json.member("links", job.links)
    }
  }
}

extension JobLinks: JSONWritable {
  /// In the order of the names, and only what there is.
  func write(to json: inout JSONWriter) {
    json.object { json in
      if let backup { json.member("backup", backup) }
      if let backups { json.member("backups", backups) }
      if let chains { json.member("chains", chains) }
      if let fleecing { json.member("fleecing", fleecing) }
      if let image { json.member("image", image) }
      if let images { json.member("images", images) }
      if let repository { json.member("repository", repository) }
      if let target { json.member("target", target) }
    }
  }
}

/// How far a job is.
struct ProgressDocument: JSONWritable, Sendable {
  let progress: JobProgress

  init(_ progress: JobProgress) {
    self.progress = progress
  }

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("done", progress.done)
      json.member("total", progress.total)
      json.member("unit", "bytes")
      json.member("rate", progress.rate)
      json.member("eta", progress.eta)
    }
  }
}

/// A line of a job's log.
struct JobLogDocument: JSONWritable, Sendable {
  let entry: JobLogEntry

  init(_ entry: JobLogEntry) {
    self.entry = entry
  }

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("sequence", entry.sequence)
      json.member("at", entry.at)
      json.member("level", entry.level)
      json.member("message", entry.message)
    }
  }
}
