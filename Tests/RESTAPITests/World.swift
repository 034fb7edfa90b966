import Foundation
import HTTPServer
import Locks
import Logging
import Model
import ModelTesting
import Orchestrator
import Testing

@testable import RESTAPI

/// The API, served on loopback over an in-memory catalog and a scripted engine. Every answer that a test gets is held
/// against the contract.
final class World: Sendable {
  let memory = InMemoryCatalog()
  let gated: GatedCatalog
  let catalog: FaultyCatalog
  let engine = ScriptedEngine()
  let clock = ManualClock()
  let service: BackupService
  let hosts = HostList(names: ["backup.example"])
  let responder: APIResponder
  let contract: Contract
  /// Which statuses came, by operation.
  let seen = Lock<[String: Set<Int>]>([:])
  /// Where jobs wait after `holdJobs()`.
  let gate = Gate()

  private let server: WebServer
  private let bound = Lock<HTTPListenAddress?>(nil)

  fileprivate init(limits: ServiceLimits, options: WebServerOptions) throws {
    contract = try Contract.shared.get()
    gated = GatedCatalog(memory)
    catalog = FaultyCatalog(gated)
    let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
    service = BackupService(
      catalog: catalog, engine: engine, time: clock, logger: quiet, limits: limits,
      zones: ServerZones(name: "Europe/Berlin"))
    responder = APIResponder(service: service, version: "0.1.0", hosts: hosts, logger: quiet)
    server = try WebServer(options: options, responder: responder, logger: quiet)
  }

  fileprivate func start(_ address: HTTPListenAddress, _ declarations: Declarations) async throws {
    try await service.start(declarations)
    let bound = try server.listen(on: address)
    if case .tcp(_, let port) = bound { hosts.add(port: port) }
    self.bound.withLock { $0 = bound }
  }

  fileprivate func stop() async {
    gate.open()
    gated.gate.open()
    await service.stop(grace: .seconds(2))
    await server.stop(grace: .seconds(2))
  }

  var address: HTTPListenAddress {
    get throws { try #require(bound.withLock { $0 }) }
  }

  /// The `Host` that requests carry unless told otherwise.
  var host: String {
    if case .tcp(_, let port)? = bound.withLock({ $0 }) { "127.0.0.1:\(port)" } else { "localhost" }
  }

  // MARK: Requests

  /// Sends one request and holds the answer against the contract.
  ///
  /// - Parameter headers: beside `Host`, `Connection`, `Content-Length`, and `Content-Type: application/json` for a
  ///   body; one of the same name replaces it, `nil` removes it.
  func send(
    _ method: String, _ target: String, _ body: String? = nil, headers: KeyValuePairs<String, String?> = [:]
  ) async throws -> Reply {
    try await send(method, target, bytes: body.map { Array($0.utf8) }, headers: headers)
  }

  /// - Parameters:
  ///   - bytes: the body.
  ///   - type: what it is said to be.
  func send(
    _ method: String, _ target: String, bytes: [UInt8]?, as type: String = "application/json",
    headers: some Sequence<(key: String, value: String?)>
  ) async throws -> Reply {
    var fields: [(String, String)] = [("Host", host), ("Connection", "close")]
    if let bytes {
      fields.append(("Content-Length", String(bytes.count)))
      fields.append(("Content-Type", type))
    }
    fields.removeAll { field in headers.contains { $0.key.lowercased() == field.0.lowercased() } }
    fields += headers.compactMap { header in header.value.map { (header.key, $0) } }
    let head = "\(method) \(target) HTTP/1.1\r\n" + fields.map { "\($0.0): \($0.1)\r\n" }.joined() + "\r\n"
    let reply = try await exchange(method, target, Array(head.utf8) + (bytes ?? []))
    try check(reply)
    return reply
  }

  /// Sends the bytes and reads the answer to the end of the connection.
  private func exchange(_ method: String, _ target: String, _ bytes: [UInt8]) async throws -> Reply {
    let address = try address
    return try await blocking {
      let wire = try Wire(address)
      try wire.send(bytes)
      let head = try wire.readHead()
      return Reply(
        method: method, target: target, status: head.status, headers: head.headers, body: try wire.readToEnd())
    }
  }

  func check(_ reply: Reply) throws {
    if let operation = contract.operation(method: reply.method, target: reply.target) {
      seen.withLock { _ = $0[operation.name, default: []].insert(reply.status) }
    }
    try reply.check(contract)
  }

  func get(_ target: String, headers: KeyValuePairs<String, String?> = [:]) async throws -> Reply {
    try await send("GET", target, headers: headers)
  }

  func post(
    _ target: String, _ body: String? = nil, headers: KeyValuePairs<String, String?> = [:]
  ) async throws -> Reply {
    try await send("POST", target, body, headers: headers)
  }

  // MARK: Stories

  static let api = "/api/v1"

  /// Registers an image of that name.
  @discardableResult
  func registerImage(_ name: String = "vm1") async throws -> Reply {
    try await post(
      "\(Self.api)/images",
      #"{"name":"\#(name)","source":{"kind":"file","path":"/images/\#(name).raw"},"format":"raw"}"#
    ).expect(201)
  }

  @discardableResult
  func createRepository(_ name: String = "local") async throws -> Reply {
    try await post(
      "\(Self.api)/repositories", #"{"name":"\#(name)","kind":"directory","path":"/backup/\#(name)"}"#
    ).expect(201)
  }

  /// Backs an image up, and waits for the end.
  @discardableResult
  func backUp(_ image: String = "vm1", to repository: String = "local") async throws -> Reply {
    let job = try await post(
      "\(Self.api)/backups", #"{"images":["\#(image)"],"repository":"\#(repository)","kind":"full"}"#
    ).expect(202)
    return try await end(of: job["id"])
  }

  func end(of job: String) async throws -> Reply {
    try await get("\(Self.api)/jobs/\(job)?wait=10").expect(200)
  }

  /// From now on jobs wait at `gate`.
  func holdJobs() {
    engine.script { [gate] in $0.hold(at: gate) }
  }

  /// A backup job that is running and stays so.
  func runningJob() async throws -> String {
    holdJobs()
    let arrivals = gate.arrivals
    let job = try await post("\(Self.api)/backups", #"{"images":["vm1"],"repository":"local"}"#).expect(202)
    try await gate.reached(by: arrivals + 1)
    return job["id"]
  }

  /// A fleecing of `vm1` that is active.
  func activeFleecing() async throws -> String {
    let job = try await post("\(Self.api)/fleecings", #"{"images":["vm1"],"listen":{"unix":"/run/cobweb/f.sock"}}"#)
      .expect(202)
    let ended = try await end(of: job["id"])
    guard let id = ended.json["result"]?["fleecing"]?.text else { throw ExpectationFailure("\(ended.text)") }
    return id
  }

  /// Has a job finish the fleecing, and stand still in the middle.
  func beginFinishing(_ fleecing: String) async throws {
    let arrivals = gate.arrivals
    engine.script { [gate] script in
      script.storage = { if case .finishFleecing = $0 { try await gate.pass() } }
    }
    try await post("\(Self.api)/fleecings/\(fleecing)/finish", #"{"outcome":"success"}"#).expect(202)
    try await gate.reached(by: arrivals + 1)
  }

  /// Restores the backup over the image, and lets the job stand still in the middle.
  func overwrite(_ image: String, with backup: String) async throws {
    holdJobs()
    let arrivals = gate.arrivals
    let body = #"{"target":{"kind":"image","image":"\#(image)"},"confirm":"\#(image)"}"#
    try await post("\(Self.api)/backups/\(backup)/restore", body).expect(202)
    try await gate.reached(by: arrivals + 1)
  }
}

/// Runs `body` in a world of its own, and ends it.
func withWorld(
  limits: ServiceLimits = ServiceLimits(), options: WebServerOptions = WebServerOptions(),
  at address: HTTPListenAddress = .tcp(host: "127.0.0.1", port: 0), declarations: Declarations = Declarations(),
  seed: @Sendable (InMemoryCatalog) async throws -> Void = { _ in },
  _ body: @Sendable (World) async throws -> Void
) async throws {
  let world = try World(limits: limits, options: options)
  do {
    try await seed(world.memory)
    try await world.start(address, declarations)
    try await body(world)
  } catch {
    await world.stop()
    throw error
  }
  await world.stop()
}

/// Runs `body` in a world with image `vm1` and repository `local`.
func withStockedWorld(
  limits: ServiceLimits = ServiceLimits(), _ body: @Sendable (World) async throws -> Void
) async throws {
  try await withWorld(limits: limits) { world in
    try await world.registerImage()
    try await world.createRepository()
    try await body(world)
  }
}

/// A catalog whose writes wait while its gate is closed.
final class GatedCatalog: BackupCatalog {
  let gate = Gate(isOpen: true)
  private let next: any BackupCatalog

  init(_ next: any BackupCatalog) { self.next = next }

  func read<Result>(_ body: (any CatalogReading) throws -> Result) throws -> Result { try next.read(body) }

  func write<Result: Sendable>(
    _ body: @Sendable @escaping (any CatalogWriting) throws -> Result
  ) async throws -> Result {
    try await gate.pass()
    return try await next.write(body)
  }

  func close() throws { try next.close() }

  var unfinished: [String] { next.unfinished }
}
