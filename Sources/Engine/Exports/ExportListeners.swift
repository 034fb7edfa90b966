import EventLoops
import Failures
import Locks
import Logging
import Model
import NBD

/// The addresses at which exports are served, each for as long as it has some.
final class ExportListeners: Sendable {
  private struct Entry {
    var listener: NBDListener
    var tls: ExportTLS?
  }

  private let loops: EventLoopGroup
  private let server: NBDServer
  private let sockets: ExportSockets
  private let credentials: ExportCredentials
  private let entries = Lock<[ExportAddress: Entry]>([:])
  private let apiAddresses: APIAddresses
  /// Listening and giving up an address take time, in which no other call may look for it.
  private let table = AsyncMutex<SoleKey>()

  init(
    loops: EventLoopGroup, options: NBDServerOptions, sockets: ExportSockets, credentials: ExportCredentials,
    apiAddresses: APIAddresses, logger: Logger
  ) {
    self.apiAddresses = apiAddresses
    self.loops = loops
    server = NBDServer(loops: loops, options: options, logger: logger)
    self.sockets = sockets
    self.credentials = credentials
  }

  /// Refuses what can't be served however it is opened.
  func check(_ tls: ExportTLS?) throws(DomainError) { _ = try credentials.security(tls) }

  /// Lets clients see the export at the address, which is listened at from then on.
  /// Returns the address as ``withdraw(_:at:)`` knows it: one value for all ways of writing it.
  func publish(_ export: NBDExport, at address: ExportAddress, tls: ExportTLS?) async throws -> ExportAddress {
    try await table.withLock {
      let address = try await canonical(address)
      if let entry = entries.withLock({ $0[address] }) {
        try Self.add(export, to: entry, at: address, tls)
      } else {
        let listener = try await listen(at: address, try credentials.security(tls), publishing: export)
        entries.withLock { $0[address] = Entry(listener: listener, tls: tls) }
      }
      return address
    }
  }

  private static func add(
    _ export: NBDExport, to entry: Entry, at address: ExportAddress, _ tls: ExportTLS?
  ) throws(DomainError) {
    guard entry.tls == tls else {
      throw DomainError(
        .addressUnavailable, "\(address.text) serves other exports with \(describe(entry.tls))",
        remedy: "use the same TLS there, or another address")
    }
    do throws(NBDListener.NameTaken) {
      try entry.listener.publish(export)
    } catch {
      throw DomainError(
        .nameTaken, "\(address.text) has an export named \(error.name) already", remedy: "choose another name")
    }
  }

  /// Hides an export that no client uses any more, and gives the address up if it was the last there.
  /// - Parameter address: as ``publish(_:at:tls:)`` returned it.
  func withdraw(_ export: NBDExport, at address: ExportAddress) async {
    await table.withLock {
      guard let listener = entries.withLock({ $0[address]?.listener }) else { return }
      listener.withdraw(export)
      guard listener.exports.isEmpty else { return }
      await listener.close()
      entries.withLock { $0[address] = nil }
    }
  }

  func shutDown() async { await server.shutdown() }

  /// Listens with the export in place: a client that was waiting for it mustn't hear that it is unknown.
  /// - Parameter address: canonical.
  private func listen(
    at address: ExportAddress, _ security: ListenerSecurity, publishing export: NBDExport
  ) async throws -> NBDListener {
    do {
      switch address {
      case .unix(let path):
        return try await server.listen(
          at: .unix(path: path), security: security, file: sockets.access, publishing: [export])
      case .tcp(let host, let port):
        return try await server.listen(at: .ip(host: host, port: port), security: security, publishing: [export])
      }
    } catch let error as SystemError {
      throw DomainError(
        .addressUnavailable, "\(address.text) can't be listened at: \(error)",
        remedy: "choose another address, or stop whoever uses it")
    }
  }

  /// One value for all ways of writing the same address.
  /// - Throws: what is wrong with a socket's path; `addressUnavailable` for one of the API's.
  private func canonical(_ address: ExportAddress) async throws -> ExportAddress {
    switch address {
    case .unix(let path):
      let loop = loops.next()
      do {
        return try await loop.run { [sockets, apiAddresses] in
          try await loop.blocking(about: path) {
            let address = ExportAddress.unix(path: try sockets.prepare(path))
            try apiAddresses.refuse(address)
            return address
          }
        }
      } catch let error as SystemError {
        throw DomainError(error, of: path)
      }
    case .tcp(let host, let port):
      let address = ExportAddress.tcp(host: host == "localhost" ? "127.0.0.1" : host, port: port)
      try apiAddresses.refuse(address)
      return address
    }
  }

  private static func describe(_ tls: ExportTLS?) -> String { tls.map { "TLS by \($0.rawValue)" } ?? "no TLS" }
}
