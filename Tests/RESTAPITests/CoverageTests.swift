import Foundation
import HTTPServer
import Locks
import Model
import ModelTesting
import Orchestrator
import Testing

@testable import RESTAPI

/// Every status that the contract documents is produced by the server, and no other.
@Suite struct CoverageTests {
  @Test(arguments: try Contract.shared.get().operations.map(\.name))
  func everyDocumentedStatusIsProduced(operation name: String) async throws {
    let stock = Stock()
    try await withWorld(declarations: Stock.declarations, seed: stock.store) { world in
      let operation = try #require(world.contract.operations.first { $0.name == name })
      let specimen = try #require(try await Specimen(name, stock, world))
      try await Coverage(world: world, operation: operation, specimen: specimen).produceAll()
      let seen = world.seen.withLock { $0[name] ?? [] }
      #expect(seen == Set(operation.responses.keys), "\(seen.symmetricDifference(operation.responses.keys))")
    }
  }
}

/// Requests of one operation: one that succeeds, and those that fail in ways of the operation's own.
struct Specimen: Sendable {
  var target: String
  var body: String?
  /// The same for something that isn't there.
  var missing: (target: String, body: String?)?
  /// Refused for the state of things.
  var conflict: (target: String, body: String?)?
  /// Understood, and can't be done.
  var unprocessable: (target: String, body: String?)?
  /// What the engine must say for a 409 and a 422, where only it can.
  var engineRefuses = false
  /// Of the body.
  var contentType = "application/json"
  /// What every request of the operation must carry.
  var match: String?
  /// The bytes that its body may have.
  var bodyLimit = APIResponder.bodyLimit

  init?(_ operation: String, _ stock: Stock, _ world: World) async throws {
    let api = World.api
    let nobody = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    func item(
      _ path: String, _ id: String, _ tail: String = "", conflict other: String? = nil, _ body: String? = nil
    ) {
      target = "\(api)/\(path)/\(id)\(tail)"
      missing = ("\(api)/\(path)/\(nobody)\(tail)", body)
      conflict = other.map { ("\(api)/\(path)/\($0)\(tail)", body) }
      self.body = body
    }
    let backup = stock.complete.id.description
    let failed = stock.failed.id.description
    let ended = stock.ended.id.description
    target = String(operation.drop { $0 != "/" })
    switch operation.replacing(api, with: "") {
    case "POST /images":
      body = #"{"name":"new","source":{"kind":"file","path":"/images/new"},"format":"raw"}"#
      conflict = (target, #"{"name":"vm1","source":{"kind":"file","path":"/images/new"},"format":"raw"}"#)
    case "GET /images/{image}": item("images", "vm1")
    case "PATCH /images/{image}": item("images", "vm1", conflict: "declared", #"{"labels":{"a":"b"}}"#)
    case "DELETE /images/{image}": item("images", "vm1", conflict: "declared")
    case "GET /images/{image}/inspect":
      item("images", "vm1", "/inspect")
      engineRefuses = true
    case "GET /images/{image}/extents":
      item("images", "vm1", "/extents")
      engineRefuses = true
    case "GET /images/{image}/checkpoints": item("images", "vm1", "/checkpoints")
    case "GET /images/{image}/trackers":
      item("images", "vm1", "/trackers")
      engineRefuses = true
    case "DELETE /images/{image}/trackers/{tracker}":
      item("images", "vm1", "/trackers/second-tool", conflict: "guest")
      engineRefuses = true
    case "POST /images/{image}/attach":
      item("images", "vm1", "/attach", conflict: "guest", #"{"cache":"writeback"}"#)
    case "POST /images/{image}/detach": item("images", "guest", "/detach", conflict: "vm1")
    case "POST /images/{image}/check": item("images", "vm1", "/check", conflict: "guest", #"{"repairLeaks":true}"#)
    case "POST /images/{image}/clear-damage":
      item("images", "vm1", "/clear-damage", #"{"confirm":"vm1"}"#)
      conflict = ("\(api)/images/declared/clear-damage", #"{"confirm":"declared"}"#)
      try await world.overwrite("declared", with: backup)
    case "POST /images/{image}/reconcile":
      item("images", "vm1", "/reconcile", conflict: "guest", #"{"confirm":"vm1"}"#)
    case "GET /images/{image}/bitmaps":
      item("images", "vm1", "/bitmaps")
      engineRefuses = true
    case "POST /images/{image}/bitmaps":
      item("images", "vm1", "/bitmaps", #"{"name":"b1"}"#)
      engineRefuses = true
    case "GET /images/{image}/bitmaps/{bitmap}", "DELETE /images/{image}/bitmaps/{bitmap}",
      "POST /images/{image}/bitmaps/{bitmap}/clear", "POST /images/{image}/bitmaps/{bitmap}/enable",
      "POST /images/{image}/bitmaps/{bitmap}/disable":
      item(
        "images", "vm1", "/bitmaps/b0" + (operation.split(separator: "{bitmap}", maxSplits: 1).dropFirst().first ?? ""))
      engineRefuses = true
    case "POST /images/{image}/bitmaps/{bitmap}/merge":
      item("images", "vm1", "/bitmaps/b0/merge", #"{"sources":["b1"]}"#)
      engineRefuses = true
    case "GET /images/{image}/bitmaps/{bitmap}/bits":
      item("images", "vm1", "/bitmaps/b0/bits")
      engineRefuses = true
    case "PUT /images/{image}/bitmaps/{bitmap}/bits":
      item("images", "vm1", "/bitmaps/b0/bits", "bits")
      engineRefuses = true
      (contentType, match, bodyLimit) = (BitsAnswer.contentType, "*", BitmapBits.maximumByteCount)
    case "POST /bitmap-transactions":
      func clear(_ image: String) -> String { #"{"actions":[{"action":"clear","image":"\#(image)","bitmap":"b0"}]}"# }
      body = clear("vm1")
      missing = (target, clear("ghost"))
      engineRefuses = true
    case "POST /repositories":
      body = #"{"name":"new","kind":"directory","path":"/backup/new"}"#
      conflict = (target, #"{"name":"local","kind":"directory","path":"/backup/new"}"#)
    case "GET /repositories/{repository}": item("repositories", "local")
    case "PATCH /repositories/{repository}": item("repositories", "local", conflict: "fixed", #"{"name":"renamed"}"#)
    case "DELETE /repositories/{repository}": item("repositories", "local", conflict: "fixed")
    case "POST /repositories/{repository}/rescan": item("repositories", "local", "/rescan")
    case "GET /backups", "GET /chains": missing = (target + "?image=ghost", nil)
    case "POST /backups":
      body = #"{"images":["vm1"],"repository":"local","kind":"full"}"#
      missing = (target, #"{"images":["ghost"],"repository":"local","kind":"full"}"#)
    case "GET /backups/{backup}": item("backups", backup)
    case "GET /backups/{backup}/extents": item("backups", backup, "/extents", conflict: failed)
    case "GET /backups/{backup}/diff/{other}": item("backups", backup, "/diff/\(backup)", conflict: failed)
    case "GET /chains/{chain}": item("chains", stock.chain.id.description)
    case "POST /chains/{chain}/verify":
      item("chains", stock.chain.id.description, "/verify", conflict: stock.failed.chain.description, "{}")
    case "POST /groups/{group}/restore":
      item(
        "groups", stock.complete.group.description, "/restore", conflict: stock.failed.group.description,
        #"{"targets":[{"image":"vm1","target":{"kind":"file","path":"/images/new","format":"raw"}}]}"#)
    case "GET /groups/{group}": item("groups", stock.complete.group.description)
    case "DELETE /backups/{backup}": item("backups", backup, conflict: stock.parent.id.description)
    case "POST /backups/{backup}/verify": item("backups", backup, "/verify", conflict: failed, #"{"level":"metadata"}"#)
    case "POST /backups/{backup}/restore":
      item(
        "backups", backup, "/restore", conflict: failed,
        #"{"target":{"kind":"image","image":"vm1"},"confirm":"vm1"}"#)
    case "GET /exports": missing = (target + "?image=ghost", nil)
    case "POST /exports":
      func export(_ name: String, of image: String) -> String {
        #"{"name":"\#(name)","source":{"kind":"image","image":"\#(image)"},"listen":{"unix":"/run/cobweb/x.sock"}}"#
      }
      body = export("new", of: "vm1")
      missing = (target, export("new", of: "ghost"))
      conflict = (target, export("look", of: "vm1"))
    case "GET /exports/{export}": item("exports", "look")
    case "PATCH /exports/{export}":
      item("exports", "look", "", #"{"contexts":{"bitmaps":[{"bitmap":"b0"}]}}"#)
      engineRefuses = true
    case "DELETE /exports/{export}":
      item("exports", "look", conflict: "busy")
      world.engine.script { $0.activity = { ExportActivity(clients: $0 == stock.busy.id ? 1 : 0) } }
    case "POST /fleecings":
      body = #"{"images":["vm1"],"listen":{"unix":"/run/cobweb/f.sock"}}"#
      missing = (target, #"{"images":["ghost"],"listen":{"unix":"/run/cobweb/f.sock"}}"#)
      conflict = (
        target,
        #"{"images":["vm1"],"listen":{"unix":"/run/cobweb/f.sock"},"tracker":"\#(stock.complete.tracker!)"}"#
      )
    case "GET /fleecings/{fleecing}": item("fleecings", stock.over.id.description)
    case "DELETE /fleecings/{fleecing}":
      let finishing = try await world.activeFleecing()
      try await world.beginFinishing(finishing)
      item("fleecings", stock.over.id.description, conflict: finishing)
    case "POST /fleecings/{fleecing}/done":
      item(
        "fleecings", try await world.activeFleecing(), "/done", conflict: stock.over.id.description,
        #"{"image":"vm1","extents":[{"offset":0,"length":65536}]}"#)
    case "POST /fleecings/{fleecing}/renew":
      item("fleecings", try await world.activeFleecing(), "/renew", conflict: stock.over.id.description, "{}")
    case "POST /fleecings/{fleecing}/finish":
      item(
        "fleecings", try await world.activeFleecing(), "/finish", conflict: stock.over.id.description,
        #"{"outcome":"success"}"#)
    case "POST /schedules/preview":
      body = #"{"schedule":["daily"]}"#
      unprocessable = (target, #"{"schedule":["*-2-30"]}"#)
    case "GET /jobs/{job}": item("jobs", ended)
    case "GET /jobs/{job}/log": item("jobs", ended, "/log")
    case "GET /jobs/{job}/events": item("jobs", ended, "/events")
    case "POST /jobs/{job}/cancel": item("jobs", try await world.runningJob(), "/cancel", conflict: ended)
    case "POST /jobs/{job}/pause": item("jobs", try await world.runningJob(), "/pause", conflict: ended)
    case "POST /jobs/{job}/resume": item("jobs", try await world.runningJob(), "/resume", conflict: ended)
    case "GET /docs/problems/{code}":
      target = "/docs/problems/image-locked"
      missing = ("/docs/problems/nothing", nil)
    default: if operation.contains("{") { return nil }
    }
  }
}

/// Makes the server produce each status of one operation.
struct Coverage: Sendable {
  let world: World
  let operation: Contract.Operation
  let specimen: Specimen

  /// A POST without a dry run is a question with a body.
  private var isChange: Bool { operation.parameters.contains { $0["name"] == .string("dryRun") } }
  private var isStream: Bool { operation.name.hasSuffix("/events") }

  private func send(
    _ request: (target: String, body: String?)? = nil, query: String = "", headers: KeyValuePairs<String, String?> = [:]
  ) async throws -> Reply {
    let target = request?.target ?? specimen.target
    let body = request == nil ? specimen.body : request?.body
    var fields = Array(headers)
    if let match = specimen.match, !fields.contains(where: { $0.key == "If-Match" }) {
      fields.append((key: "If-Match", value: match))
    }
    return try await world.send(
      operation.method, target + query, bytes: body.map { Array($0.utf8) }, as: specimen.contentType, headers: fields)
  }

  func produceAll() async throws {
    try await refuseEarly()
    try await refuseByState()
    try await failUnderneath()
    try await succeed()
  }

  /// What is refused by the request alone.
  private func refuseEarly() async throws {
    try await send(query: "?unknown=1").expect(400, .invalidParameter)
    try await send(headers: ["Origin": "http://evil.example"]).expect(403, .foreignOrigin)
    try await send(headers: ["Host": "evil.example"]).expect(421, .misdirectedRequest)
    if let missing = specimen.missing { try await send(missing).expect(404, .notFound) }
    if specimen.match != nil { try await send(headers: ["If-Match": nil]).expect(428, .preconditionRequired) }
    if operation.responses[429] != nil { try await refuseMany() }
    if isChange { try await refuseStale() }
    if operation.requestBody != nil {
      try await sendTooMuch().expect(413, .bodyTooLarge)
      try await send((specimen.target, "{}"), headers: ["Content-Type": "text/plain"])
        .expect(415, .unsupportedMediaType)
    }
  }

  /// What is refused by its announced length has no need to be sent.
  private func sendTooMuch() async throws -> Reply {
    guard specimen.bodyLimit == APIResponder.bodyLimit else {
      return try await send(headers: ["Content-Length": String(specimen.bodyLimit + 1)])
    }
    return try await send((specimen.target, String(repeating: " ", count: specimen.bodyLimit + 1)))
  }

  private func refuseStale() async throws {
    let stale: KeyValuePairs<String, String?> = ["If-Match": "\"99-0\""]
    guard specimen.match != nil else {
      try await send(headers: stale).expect(412, .preconditionFailed)
      return
    }
    world.engine.script { script in
      script.changeBitmaps = { _ in throw DomainError(.preconditionFailed, "the script says so") }
    }
    try await send(headers: stale).expect(412, .preconditionFailed)
    world.engine.script { $0 = ScriptedEngine.Script() }
  }

  /// As many as may be are on their way.
  private func refuseMany() async throws {
    let transfers = try (0..<Transfers.limit).map { _ in try world.responder.transfers.begin() }
    try await send().expect(429, .tooManyRequests)
    withExtendedLifetime(transfers) {}
  }

  private func refuseByState() async throws {
    if let conflict = specimen.conflict { try await send(conflict).expect(409) }
    if let unprocessable = specimen.unprocessable { try await send(unprocessable).expect(422) }
    if specimen.engineRefuses {
      for (code, status) in [(ProblemCode.imageLocked, 409), (.formatUnsupported, 422)] {
        world.engine.script { script in
          script.inspect = { _ in throw DomainError(code, "the script says so") }
          script.extents = { _, _, _, _ in throw DomainError(code, "the script says so") }
          script.bitmaps = { _ in throw DomainError(code, "the script says so") }
          script.setContexts = { _ in throw DomainError(code, "the script says so") }
          script.changeBitmaps = { _ in throw DomainError(code, "the script says so") }
          script.bits = { _ in throw DomainError(code, "the script says so") }
        }
        try await send().expect(status, code)
      }
      world.engine.script { $0 = ScriptedEngine.Script() }
    }
  }

  private func failUnderneath() async throws {
    let stopping = world.responder.response(
      to: .stopping, for: HTTPRequest(method: operation.method, path: specimen.target))
    try world.check(Reply(stopping, operation.method, specimen.target))
    if isChange {
      world.catalog.writeFault = FaultyCatalog.Fault(atCall: 1, fromThenOn: true)
      try await send().expect(507, .storageFull)
      world.catalog.writeFault = nil
    }
    if operation.responses[500] != nil {
      let fault = FaultyCatalog.Fault(
        atCall: 1, fromThenOn: true, error: DomainError(.ioError, "the catalog can't be read"))
      if isChange { world.catalog.writeFault = fault } else { world.catalog.readFault = fault }
      try await send().expect(500, .ioError)
      world.catalog.writeFault = nil
      world.catalog.readFault = nil
    }
  }

  private func succeed() async throws {
    if isStream { return try await listen() }
    if isChange { try await send(query: "?dryRun=true").expect(200) }
    guard operation.method == "POST", isChange else {
      let reply = try await send()
      #expect(reply.status < 300, "\(reply.text)")
      if !isChange, let tag = reply.header("ETag") { try await send(headers: ["If-None-Match": tag]).expect(304) }
      return
    }
    // Two at once under one key, then the same key for another body.
    world.gated.gate.close()
    let arrivals = world.gated.gate.arrivals
    async let first = send(headers: ["Idempotency-Key": "k1"])
    try await world.gated.gate.reached(by: arrivals + 1)
    try await send(headers: ["Idempotency-Key": "k1"]).expect(409, .idempotencyKeyInFlight)
    world.gated.gate.open()
    let reply = try await first
    #expect(reply.status < 300, "\(reply.text)")
    try await send((specimen.target, (specimen.body ?? "{}") + " "), headers: ["Idempotency-Key": "k1"])
      .expect(422, .idempotencyKeyReused)
  }

  private func listen() async throws {
    let bytes = Array("GET \(specimen.target) HTTP/1.1\r\nHost: \(world.host)\r\nConnection: close\r\n\r\n".utf8)
    let address = try world.address
    let reply = try await blocking { [specimen] in
      let wire = try Wire(address)
      try wire.send(bytes)
      let head = try wire.readHead()
      return Reply(method: "GET", target: specimen.target, status: head.status, headers: head.headers, body: [])
    }
    try world.check(reply.expect(200))
  }
}

extension Reply {
  /// An answer that didn't go over the wire.
  init(_ response: HTTPResponse, _ method: String, _ target: String) {
    let body: [UInt8] = if case .bytes(let bytes) = response.content { bytes } else { [] }
    self.init(method: method, target: target, status: response.status, headers: response.headers.all, body: body)
  }
}
