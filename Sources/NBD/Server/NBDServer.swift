import Buffers
import EventLoops
import Locks
import Logging

/// Serves exports to NBD clients on the program's event loops.
///
/// It has listeners, each with its own exports; limits and memory are shared by all. It ends with ``shutdown()``.
package final class NBDServer: Sendable {
  private struct State {
    var isShuttingDown = false
    var connectionCount = 0
    var listeners: [NBDListener] = []
  }

  package let options: NBDServerOptions
  let loops: EventLoopGroup
  let logger: Logger
  let pool: BufferPool
  let pipes = PipePool()
  private let state = Lock(State())

  package init(
    loops: EventLoopGroup, options: NBDServerOptions = NBDServerOptions(), logger: Logger = Logger(label: "nbd")
  ) {
    self.loops = loops
    self.options = options
    self.logger = logger
    pool = BufferPool()
  }

  /// Connections now, those in the handshake included.
  package var connectionCount: Int { state.withLock { $0.connectionCount } }

  /// Bytes of memory that connections hold; 0 without any.
  package var lentByteCount: Int { pool.lentByteCount }

  /// Pipes that carry READs now; 0 without connections.
  package var lentPipeCount: Int { pipes.lentCount }

  package var listeners: [NBDListener] { state.withLock { $0.listeners } }

  /// Listens at `address`. A unix socket's file is made with `file`'s rights; one that no server listens on any more is
  /// replaced.
  /// - Parameter exports: published before the first client can ask: one that comes back after a restart must not hear
  ///   that its export is unknown.
  package func listen(
    at address: SocketAddress, security: ListenerSecurity = .plain, file: SocketFileAccess = SocketFileAccess(),
    publishing exports: [NBDExport] = []
  ) async throws -> NBDListener {
    let listener = NBDListener(self, address, security, loops.next())
    for export in exports { try listener.publish(export) }
    try await listener.start(file)
    let isLate = state.withLock { state in
      if !state.isShuttingDown { state.listeners.append(listener) }
      return state.isShuttingDown
    }
    if isLate {
      await listener.close()
      throw SystemError.shutDown
    }
    return listener
  }

  /// Closes all listeners and cuts off all clients, their requests in flight first.
  package func shutdown() async {
    let listeners = state.withLock { state in
      state.isShuttingDown = true
      return state.listeners
    }
    await withDiscardingTaskGroup { group in
      for listener in listeners { group.addTask { await listener.close() } }
    }
  }

  func forget(_ listener: NBDListener) { state.withLock { $0.listeners.removeAll { $0 === listener } } }

  /// Counts a connection in; false if there are too many.
  func admit() -> Bool {
    state.withLock { state in
      guard !state.isShuttingDown, state.connectionCount < options.maximumConnectionCount else { return false }
      state.connectionCount += 1
      return true
    }
  }

  func leave() { state.withLock { $0.connectionCount -= 1 } }
}
