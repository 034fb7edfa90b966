import HTTPServer
import Logging
import Model
import Orchestrator

/// Answers every request of the server: the conventions that hold on all routes, then the route.
///
/// In order: the names the server answers to and foreign pages, the path, the method, the body's kind, the query,
/// the body. Every refusal is a problem document, those of `HTTPServer` too.
package final class APIResponder: HTTPResponder {
  private let router: Router
  private let hosts: HostList
  private let logger: Logger
  let transfers = Transfers()

  /// Bytes that a body of JSON may have.
  package static let bodyLimit = 1 << 20

  /// - Parameters:
  ///   - version: of the program, as `/api/v1/server` shows it.
  ///   - hosts: must know the ports before the first request comes in on them.
  ///   - executor: where the tasks that feed event streams run.
  package init(
    service: BackupService, version: String, hosts: HostList, executor: (any TaskExecutor)? = nil, logger: Logger
  ) {
    router = Router(
      ServerRoutes(service: service, version: version).all + ImageRoutes(service: service).all
        + RepositoryRoutes(service: service).all + BackupRoutes(service: service).all
        + BitmapRoutes(service: service).all + ExportRoutes(service: service).all
        + FleecingRoutes(service: service).all + JobRoutes(service: service).all
        + ScheduleRoutes(service: service).all
        + EventRoutes(service: service, executor: executor).all)
    self.hosts = hosts
    self.logger = logger
  }

  /// Every operation as "GET /api/v1/images/{image}" with the names of the parameters that its query may have, for
  /// comparing with the contract.
  package var operations: [(operation: String, query: [String])] {
    router.routes.map { ("\($0.method.rawValue) \($0.pattern)", $0.query.map(\.rawValue)) }
  }

  /// What the caller of each operation must be allowed to do.
  package var verbs: [String: Verb] {
    Dictionary(uniqueKeysWithValues: router.routes.map { ("\($0.method.rawValue) \($0.pattern)", $0.verb) })
  }

  // MARK: HTTPResponder

  package func admit(_ request: HTTPRequest) -> HTTPAdmission {
    // Without a body everything is checked in one go when it is answered.
    guard request.hasBody else { return .accept(bodyLimit: Self.bodyLimit) }
    switch call(for: request) {
    case .success(let call): return .accept(bodyLimit: call.match.route.body.limit)
    case .failure(let refusal): return .reject(refusal.response)
    }
  }

  package func answerNow(_ request: HTTPRequest) -> HTTPResponse? {
    switch call(for: request) {
    case .failure(let refusal): return refusal.response
    case .success(let call):
      do {
        switch call.match.route.work {
        case .now(let work): return call.query.asksForMuch ? nil : finish(try work(call), request)
        case .either(let now, _): return try now(call).map { finish($0, request) }
        case .later, .transfer: return nil
        }
      } catch {
        return failure(error, request)
      }
    }
  }

  package func answer(_ request: HTTPRequest) async throws -> HTTPResponse {
    switch call(for: request) {
    case .failure(let refusal): return refusal.response
    case .success(var call):
      do {
        let route = call.match.route
        let transfer: Transfer? = if case .transfer = route.work { try transfers.begin() } else { nil }
        call.body = try await request.body.collect(limit: route.body.limit)
        try checkPresence(of: call.body, route)
        let response = finish(try await work(on: call), request)
        return transfer?.carrying(response) ?? response
      } catch let error as DomainError {
        return failure(error, request)
      }
    }
  }

  private func work(on call: Call) async throws -> HTTPResponse {
    switch call.match.route.work {
    case .now(let work): return try work(call)
    case .later(let work), .transfer(let work), .either(_, let work):
      return try await CatalogDeadline.wait(until: .now + CatalogDeadline.ofRequest) { try await work(call) }
    }
  }

  package func response(to fault: HTTPFault, for request: HTTPRequest) -> HTTPResponse {
    switch fault {
    case .malformedTarget(let reason):
      refuse(DomainError(.malformedRequest, "the request's target is malformed: \(reason)"), request)
    case .badFraming(let reason):
      refuse(DomainError(.malformedRequest, "the body's length is unclear: \(reason)"), request)
    case .bodyTooLarge(let limit):
      refuse(DomainError(.bodyTooLarge, "the body has more than \(limit) bytes"), request)
    case .tooManyEventStreams(let limit):
      refuse(DomainError(.tooManyStreams, "\(limit) event streams are open, as many as are allowed"), request)
    case .stopping:
      refuse(DomainError(.stopping, "the server is stopping"), request)
    case .internalError(let error):
      failure(error, request)
    }
  }

  // MARK: Refusals

  /// A request that goes no further.
  private struct Refusal: Error {
    let response: HTTPResponse
  }

  /// Everything that the head of a request can be refused for.
  private func call(for request: HTTPRequest) -> Result<Call, Refusal> {
    do {
      try hosts.check(request)
      let match = try router.match(method: request.method, path: request.path)
      try checkBody(announcedBy: request, match.route)
      return .success(try Call(request, match))
    } catch Router.Miss.method(let allowed) {
      var response = refuse(
        DomainError(
          .methodNotAllowed, "\(request.method) isn't possible here; possible are \(allowed.joined(separator: ", "))"),
        request)
      response.headers["Allow"] = allowed.joined(separator: ", ")
      return .failure(Refusal(response: response))
    } catch Router.Miss.fault(let error) {
      return .failure(Refusal(response: refuse(error, request)))
    } catch {
      return .failure(Refusal(response: failure(error, request)))
    }
  }

  private func checkBody(announcedBy request: HTTPRequest, _ route: Route) throws(DomainError) {
    guard request.hasBody else { return }
    let types = route.body.mediaTypes
    guard !types.isEmpty else {
      throw DomainError(
        .malformedRequest, "\(request.method) takes no body here", remedy: "send the request without a body")
    }
    if let coding = request.headers.values("Content-Encoding").first(where: { $0.lowercased() != "identity" }) {
      throw DomainError(
        .unsupportedMediaType, "the body is encoded as '\(coding)', which isn't understood here",
        remedy: "send the body as it is, without 'Content-Encoding'")
    }
    let given = request.headers.values("Content-Type")
    guard given.count == 1, MediaType(given[0]).map({ types.contains($0.name) && $0.isUTF8 }) == true else {
      throw DomainError(
        .unsupportedMediaType, "the body is of type '\(given.joined(separator: ", "))', not \(types[0])",
        remedy: "send 'Content-Type: \(types[0])'")
    }
  }

  private func checkPresence(of body: [UInt8], _ route: Route) throws(DomainError) {
    switch route.body {
    case .none, .optionalObject: return
    case .object, .mergePatch:
      if body.isEmpty { throw DomainError(.malformedJSON, "the body is missing: a JSON object is needed here") }
    case .bits:
      if body.isEmpty { throw DomainError(.malformedBits, "the body is missing: the bits of a bitmap are needed here") }
    }
  }

  private func failure(_ error: any Error, _ request: HTTPRequest) -> HTTPResponse {
    if let error = error as? DomainError {
      let passes = error.code == .stopping || error.code == .notReady
      if ProblemType.of(error.code).status >= 500, !passes { log(error, request) }
      return refuse(error, request)
    }
    // The client is gone, or is told of the stop: nothing went wrong here, and the log has no room for it.
    if error is CancellationError || error is HTTPClientGone {
      return refuse(DomainError(.stopping, "the request was broken off"), request)
    }
    log(error, request)
    return refuse(DomainError(.internalError, "the request failed for a reason that the server's log tells"), request)
  }

  private func log(_ error: any Error, _ request: HTTPRequest) {
    logger.error(
      "request failed",
      metadata: [
        "request": "\(request.id)", "method": "\(request.method)", "path": "\(request.path)", "error": "\(error)",
      ])
  }

  private func refuse(_ error: DomainError, _ request: HTTPRequest) -> HTTPResponse {
    finish(JSONAnswer.problem(error, to: request), request)
  }

  /// What every answer carries.
  private func finish(_ response: HTTPResponse, _ request: HTTPRequest) -> HTTPResponse {
    var response = response
    response.headers["X-Request-Id"] = request.id
    response.headers["X-Content-Type-Options"] = "nosniff"
    if response.headers["Cache-Control"] == nil { response.headers["Cache-Control"] = "no-store" }
    return response
  }
}
