import Assets
import Foundation
import HTTPServer
import Model
import Orchestrator

/// What tells about the server itself: its version, its health, its contract and its problem pages.
struct ServerRoutes {
  let service: BackupService
  let version: String
  /// Decoded once.
  private let contract: [UInt8]
  private let contractTag: String

  init(service: BackupService, version: String) {
    self.service = service
    self.version = version
    contract = EmbeddedFile.named("openapi.yaml")?.bytes ?? []
    contractTag = EntityTag.of(contract, revision: nil)
  }

  var all: [Route] {
    [
      Route(.get, "\(APIPath.root)/server", needs: .read, .now(server)),
      Route(.get, "/", needs: .read, .now(index)),
      Route(.get, "/healthz", needs: .read, .now(health)),
      Route(.get, "/readyz", needs: .read, .now(readiness)),
      Route(.get, "/openapi.yaml", needs: .read, .now(openAPI)),
      Route(.get, "/docs/problems", needs: .read, .now { _ in ProblemPages.list().response }),
      Route(.get, "/docs/problems/{code}", needs: .read, .now(problem)),
    ]
  }

  @Sendable private func server(_ call: Call) throws -> HTTPResponse {
    try JSONAnswer.ok(
      ServerDocument(
        version: version, ioBackend: service.ioBackend, startedAt: service.startedAt, limits: service.limits,
        isProbing: service.isProbing, timeZone: service.zones.name),
      to: call)
  }

  @Sendable private func index(_ call: Call) throws -> HTTPResponse {
    HTMLPage(
      title: "Cobweb \(version)",
      body: """
        <p>Backups of disk images over the web.</p>
        <ul><li><a href="/openapi.yaml">openapi.yaml</a>, the contract of the API</li>
        <li><a href="/docs/problems">Problems</a>, and what to do about each</li>
        <li><a href="\(APIPath.root)/server">This server</a></li>
        <li>Its <a href="\(APIPath.root)/images">images</a>,
        <a href="\(APIPath.root)/repositories">repositories</a>, <a href="\(APIPath.root)/backups">backups</a>,
        <a href="\(APIPath.root)/exports">exports</a> and <a href="\(APIPath.root)/jobs">jobs</a></li></ul>
        """
    ).response
  }

  @Sendable private func health(_ call: Call) throws -> HTTPResponse {
    try JSONAnswer.ok(["status": "alive"], to: call)
  }

  @Sendable private func readiness(_ call: Call) throws -> HTTPResponse {
    do {
      try service.isReady()
    } catch let error as DomainError where error.code == .stopping {
      throw error
    } catch {
      throw DomainError(
        .notReady, "the catalog can't be read: \((error as? DomainError)?.detail ?? "see the log")")
    }
    return try JSONAnswer.ok(["status": "ready"], to: call)
  }

  @Sendable private func openAPI(_ call: Call) throws -> HTTPResponse {
    var response = try JSONAnswer.ok(contract, tag: contractTag, revision: nil, to: call.request)
    if response.status == 200 { response.headers["Content-Type"] = "application/yaml" }
    response.headers["Cache-Control"] = "no-cache"
    return response
  }

  @Sendable private func problem(_ call: Call) throws -> HTTPResponse {
    guard let code = ProblemCode(rawValue: call.match.parameters[0]) else {
      throw DomainError(
        .notFound, "no problem is called '\(call.match.parameters[0])'", remedy: "look at the list: /docs/problems")
    }
    return ProblemPages.page(of: code).response
  }
}

/// The server as the API shows it.
struct ServerDocument: JSONWritable {
  let version: String
  let ioBackend: String
  let startedAt: Date
  let limits: ServiceLimits
  let isProbing: Bool
  let timeZone: String?

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("name", "cobweb")
      json.member("version", version)
      json.member("apiVersion", "v1")
      json.member("ioBackend", ioBackend)
      json.member("startedAt", startedAt)
      json.member("backupKinds", RequestedBackupKind.allCases)
      json.member("imageFormats", DiskFormat.allCases)
      json.member("probing", isProbing)
      json.member("timeZone", timeZone)
      json.member("concurrentJobs", limits.concurrentJobs)
      json.member("queuedJobs", limits.queuedJobs)
      json.member("imagesPerBackup", limits.imagesPerBackup)
    }
  }
}
