import Catalog
import Configuration
import Engine
import EventLoops
import Foundation
import HTTPServer
import Logging
import Model
import Orchestrator
import RESTAPI

/// The composed program: each room's real part, put together here and nowhere else.
final class Server: Sendable {
  /// Threads that run HTTP handlers: they wait for the catalog at times, so they are not the loops'.
  private static let handlerThreadCount = 2

  let shutdown: Shutdown
  private let handlers: WorkerPool
  /// What to tell the person who started it: the URLs first.
  let announcement: [String]

  private init(shutdown: Shutdown, handlers: WorkerPool, announcement: [String]) {
    self.shutdown = shutdown
    self.handlers = handlers
    self.announcement = announcement
  }

  /// Opens everything, brings the catalog in line with the world, and listens.
  static func start(_ configuration: ServerConfiguration) async throws -> Server {
    let logger = Logger(label: "cobweb")
    let descriptors = DescriptorLimit.raise()
    let httpConnections = descriptors.httpConnections(besideExports: configuration.exportConnections)
    logger.info("at most \(descriptors.count) files are open, \(httpConnections) of them HTTP connections")
    let catalog = try SQLiteCatalog(stateFolder: configuration.stateFolder)
    let group = try EventLoopGroup(backend: configuration.loopBackend)
    logger.info("I/O runs on \(group.backend.rawValue)\(group.backendReason.map { ": \($0)" } ?? "")")
    let engine = try LocalEngine(
      EngineConfiguration(
        imageFolders: configuration.imageFolders, imageDevices: configuration.imageDevices,
        repositoryFolders: configuration.repositoryFolders,
        writer: try ServerIdentity.load(from: configuration.stateFolder),
        compressionLevel: configuration.compressionLevel, sampledCheck: configuration.sampledCheck,
        exports: configuration.engineExports,
        peers: configuration.enginePeers, tracking: configuration.engineTracking,
        fleecing: configuration.engineFleecing),
      group: group)
    var limits = ServiceLimits()
    limits.concurrentJobs = configuration.jobsAtOnce
    limits.chainLength = configuration.chainLength
    limits.eventsKept = configuration.eventsKept
    let service = BackupService(
      catalog: catalog, engine: engine, time: SystemTime(), logger: Logger(label: "jobs"), limits: limits,
      zones: ServerZones(name: configuration.timeZone))
    let shutdown = Shutdown(service: service, engine: engine, group: group, catalog: catalog)
    do {
      try await service.start(configuration.declarations)
      try Task.checkCancellation()
      return try await serve(shutdown, configuration, httpConnections)
    } catch {
      // Images may be attached and exported by now: what their guests have written is brought home.
      _ = await shutdown.run()
      throw error
    }
  }

  /// Puts the API before the service that has started, and listens.
  private static func serve(
    _ shutdown: Shutdown, _ configuration: ServerConfiguration, _ httpConnections: Int
  ) async throws -> Server {
    let service = shutdown.service
    let handlers = try WorkerPool(threadCount: handlerThreadCount, name: "handler")
    let hosts = HostList(names: configuration.hosts)
    let responder = APIResponder(
      service: service, version: Cobweb.version, hosts: hosts, executor: handlers, logger: Logger(label: "api"))
    var options = WebServerOptions()
    options.connectionLimit = httpConnections
    options.eventStreamLimit = configuration.eventStreams
    let web = try WebServer(
      options: options, responder: responder, executor: handlers, logger: Logger(label: "http"))
    let urls: [String]
    do { urls = try listen(web, configuration, hosts) } catch {
      await web.stop(grace: Shutdown.grace)
      throw error
    }
    var shutdown = shutdown
    shutdown.web = web
    return Server(
      shutdown: shutdown, handlers: handlers,
      announcement: Announcement(urls: urls, service: service, configuration: configuration).lines)
  }

  /// The URL of each address.
  private static func listen(
    _ web: WebServer, _ configuration: ServerConfiguration, _ hosts: HostList
  ) throws -> [String] {
    let identity = try configuration.tls.map { files in
      TLSIdentity(
        certificatePEM: try String(contentsOfFile: files.certificate, encoding: .utf8),
        keyPEM: try String(contentsOfFile: files.key, encoding: .utf8))
    }
    return try configuration.listen.map { address in
      switch address {
      case .unix(let path):
        "\(try web.listen(on: .unix(path: path, mode: configuration.socketMode)))"
      case .tcp(let host, let port):
        url(
          try web.listen(on: .tcp(host: host == "localhost" ? "127.0.0.1" : host, port: port), tls: identity), hosts,
          isSecure: identity != nil)
      }
    }
  }

  private static func url(_ address: HTTPListenAddress, _ hosts: HostList, isSecure: Bool) -> String {
    if case .tcp(_, let port) = address { hosts.add(port: port) }
    return "\(isSecure ? "https" : "http")://\(address)"
  }
}
