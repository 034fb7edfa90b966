import Logging

/// What the exchanges of a server share.
final class RequestService: Sendable {
  let responder: any HTTPResponder
  let executor: (any TaskExecutor)?
  let options: WebServerOptions
  let logger: Logger
  let liveRequests: LiveRequests
  let connections: Connections
  let watch: ClientWatch

  init(
    responder: any HTTPResponder, executor: (any TaskExecutor)?, options: WebServerOptions, logger: Logger,
    liveRequests: LiveRequests, connections: Connections, watch: ClientWatch
  ) {
    self.responder = responder
    self.executor = executor
    self.options = options
    self.logger = logger
    self.liveRequests = liveRequests
    self.connections = connections
    self.watch = watch
  }

  /// The handler's answer, its errors turned into faults.
  func answer(_ request: HTTPRequest) async -> HTTPResponse {
    do {
      return try await responder.answer(request)
    } catch let error as HTTPBodyTooLarge {
      return responder.response(to: .bodyTooLarge(limit: error.limit), for: request)
    } catch {
      if !(error is HTTPClientGone), !(error is CancellationError) {
        logger.error("handler failed", metadata: ["request": "\(request.id)", "error": "\(error)"])
      }
      return responder.response(to: .internalError(error), for: request)
    }
  }
}
