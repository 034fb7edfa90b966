import EventLoops
import Glibc
import Locks
import Logging

/// One address at which clients find exports.
package final class NBDListener: Sendable {
  /// An export of this name is published already.
  package struct NameTaken: Error, Hashable, Sendable, CustomStringConvertible {
    package let name: String
    package var description: String { "this listener has an export “\(name)” already" }
  }

  private struct State {
    // In the order in which they were published.
    var exports: [NBDExport] = []
    var defaultName: String?
    /// True once it has had several exports at a time.
    var isShared = false
    var isClosing = false
    var accepting: Task<Void, Never>?
    /// The unix socket's file, while it is ours.
    var file: (device: dev_t, inode: ino_t)?
    var address: SocketAddress
  }

  /// Connections that may wait in the kernel to be accepted.
  private static let backlog: Int32 = 128
  /// How long accepting rests when descriptors or memory run out.
  private static let pause = Duration.milliseconds(100)

  package let security: ListenerSecurity
  let server: NBDServer
  private let loop: EventLoop
  private let state: Lock<State>

  init(_ server: NBDServer, _ address: SocketAddress, _ security: ListenerSecurity, _ loop: EventLoop) {
    self.server = server
    self.security = security
    self.loop = loop
    state = Lock(State(address: address))
  }

  /// Where it listens; a port that was left open is the one that the kernel chose.
  package var address: SocketAddress { state.withLock { $0.address } }

  // MARK: Exports

  package var exports: [NBDExport] { state.withLock { $0.exports } }

  /// Lets clients see `export` from now on.
  /// - Parameter isDefault: clients that name no export get this one.
  package func publish(_ export: NBDExport, isDefault: Bool = false) throws(NameTaken) {
    let isTaken = state.withLock { state in
      if state.exports.contains(where: { $0.name == export.name }) { return true }
      if !state.exports.isEmpty { state.isShared = true }
      state.exports.append(export)
      if isDefault { state.defaultName = export.name }
      return false
    }
    if isTaken { throw NameTaken(name: export.name) }
  }

  /// Hides the export from new clients; those that it has stay. See ``NBDExport/remove(_:)``.
  package func withdraw(_ export: NBDExport) {
    state.withLock { state in
      state.exports.removeAll { $0 === export }
      if state.defaultName == export.name { state.defaultName = nil }
    }
  }

  /// Takes the export away from this listener and for good; on refusal it stays as it was.
  package func remove(_ export: NBDExport, _ removal: NBDExport.Removal) async throws(NBDExport.InUse) {
    try await export.remove(removal)
    withdraw(export)
  }

  var listings: [ExportListing] { exports.map(\.listing) }

  /// The export of that name. The empty name finds one called so, else the default, else the listener's only export.
  ///
  /// Not the one that is left of several: a guest that came to another by the empty name, and reconnects, must not find
  /// this disk in its place.
  func export(named name: String) -> NBDExport? {
    state.withLock { state in
      if let export = state.exports.first(where: { $0.name == name }) { return export }
      guard name.isEmpty else { return nil }
      if let name = state.defaultName { return state.exports.first { $0.name == name } }
      return state.isShared ? nil : state.exports.first
    }
  }

  // MARK: Life

  func start(_ file: SocketFileAccess) async throws {
    let socket = try await loop.run { [self] in try open(file) }
    // Not part of the caller's task: it goes on when that ends.
    let task = Task(executorPreference: loop) { [self] in
      // No client comes any more once the loops are shut down.
      _ = try? await loop.run { [self] in await accept(socket) }
    }
    state.withLock { $0.accepting = task }
  }

  private func open(_ file: SocketFileAccess) throws(SystemError) -> Socket {
    let wanted = address
    guard case .unix(let path) = wanted else {
      let socket = try Socket.listen(at: wanted, backlog: Self.backlog, on: loop)
      if case .ip(let host, _) = wanted {
        let port = try socket.localPort()
        state.withLock { $0.address = .ip(host: host, port: port) }
      }
      return socket
    }
    Self.removeAbandoned(path)
    let socket = try Socket.listen(
      at: wanted, backlog: Self.backlog, fileMode: file.mode, fileGroup: file.group, on: loop)
    state.withLock { $0.file = Self.identity(of: path) }
    return socket
  }

  /// Removes a socket file that no server listens on: its server ended without removing it.
  private static func removeAbandoned(_ path: String) {
    guard let isAnswered = try? Socket.isAnswered(unixPath: path), !isAnswered else { return }
    unlink(path)
  }

  private static func identity(of path: String) -> (device: dev_t, inode: ino_t)? {
    var status = stat()
    guard lstat(path, &status) == 0 else { return nil }
    return (status.st_dev, status.st_ino)
  }

  /// Stops listening, cuts off its clients (their requests in flight first, within the grace), and waits for them.
  /// Exports aren't removed. Idempotent.
  package func close() async {
    let (task, exports, file, address) = state.withLock { state in
      state.isClosing = true
      defer { state.file = nil }
      return (state.accepting, state.exports, state.file, state.address)
    }
    if let file, case .unix(let path) = address, let found = Self.identity(of: path), found == file { unlink(path) }
    for export in exports { await export.stopClients(of: self, grace: server.options.removalGrace) }
    task?.cancel()
    await task?.value
    server.forget(self)
  }

  private func accept(_ socket: Socket) async {
    await withDiscardingTaskGroup { group in
      while !Task.isCancelled {
        do throws(SystemError) {
          let client = try await socket.accept()
          guard server.admit() else {
            server.logger.warning(
              "too many connections", metadata: ["limit": "\(server.options.maximumConnectionCount)"])
            client.close()
            continue
          }
          let connection = ServerConnection(client, self)
          group.addTask {
            await connection.serve()
            self.server.leave()
          }
        } catch {
          if error.isCancelled || error == .shutDown { break }
          server.logger.error("can't accept connections", metadata: ["error": "\(error)"])
          try? await loop.sleep(for: Self.pause)
        }
      }
      socket.close()
      group.cancelAll()
    }
  }
}
