import HTTPServer
import Model
import Orchestrator

/// Streams of events: of everything, or of one job.
struct EventRoutes {
  let service: BackupService
  /// Where the task of each stream runs; nil is the global pool.
  let executor: (any TaskExecutor)?

  var all: [Route] {
    [
      Route(.get, "\(APIPath.root)/events", needs: .read, .now(listenToAll)),
      Route(.get, "\(APIPath.root)/jobs/{job}/events", needs: .read, .now(listenToJob)),
    ]
  }

  @Sendable private func listenToAll(_ call: Call) throws -> HTTPResponse {
    try listen(call, job: nil)
  }

  @Sendable private func listenToJob(_ call: Call) throws -> HTTPResponse {
    try listen(call, job: try service.job(try call.job()).id)
  }

  private func listen(_ call: Call, job: JobID?) throws -> HTTPResponse {
    let after = try lastEventID(call.request)
    if call.match.isHead { return HTTPResponse(status: 200, headers: ["Content-Type": "text/event-stream"]) }
    let source = try service.events(after: after, job: job)
    let stream = ServerSentEvents()
    let task = Task(executorPreference: executor) {
      while let item = await source.next(), stream.send(item.message) {}
      stream.end()
    }
    stream.onClose { task.cancel() }
    return HTTPResponse(status: 200, content: .events(stream))
  }

  /// The newest event that the client has.
  private func lastEventID(_ request: HTTPRequest) throws(DomainError) -> Int64? {
    guard let text = request.headers["Last-Event-ID"], !text.isEmpty else { return nil }
    guard text.utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }), let id = Int64(text) else {
      throw DomainError(.malformedRequest, "'Last-Event-ID' must be the number of an event that was received")
    }
    return id
  }
}

extension EventStream.Item {
  fileprivate var message: ServerSentEvent {
    switch self {
    case .event(let event): EventDocument(event: event).message
    case .progress(let job, let progress): ProgressEventDocument(job: job, progress: progress).message
    case .gap(let newest): GapEventDocument(newest: newest).message
    }
  }
}
