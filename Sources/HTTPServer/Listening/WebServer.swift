import Logging

/// An HTTP/1.1 server on libmicrohttpd: any number of addresses, one responder.
///
/// It must be stopped; one that is dropped unstopped stops by itself, without grace.
package final class WebServer: Sendable {
  /// What is alive in the server.
  package struct Counts: Sendable, Equatable {
    package let connections: Int
    /// Requests from their first line until nothing holds them any more, a handler that ignores its
    /// cancellation included.
    package let exchanges: Int
    /// Requests that came in whole or in part and whose answer isn't sent.
    package let requests: Int
    package let eventStreams: Int

    package init(connections: Int, exchanges: Int, requests: Int = 0, eventStreams: Int) {
      self.connections = connections
      self.exchanges = exchanges
      self.requests = requests
      self.eventStreams = eventStreams
    }
  }

  private let service: RequestService
  private let thread: ServerThread

  /// - Parameters:
  ///   - executor: where handlers and producers of streams run; the global one if nil.
  package init(
    options: WebServerOptions = WebServerOptions(), responder: any HTTPResponder,
    executor: (any TaskExecutor)? = nil, logger: Logger = Logger(label: "http")
  ) throws(ServerSetupError) {
    let watch = try ClientWatch()
    service = RequestService(
      responder: responder, executor: executor, options: options, logger: logger,
      liveRequests: LiveRequests(changed: { watch.wake() }),
      connections: Connections(options, changed: { watch.wake() }),
      watch: watch)
    thread = ServerThread(service: service)
    try thread.start()
  }

  deinit {
    thread.requestStop(grace: .zero)
  }

  /// Serves an address from now on.
  ///
  /// A unix socket's file is made with its mode; a file left over by a server that died is replaced, one on which
  /// another server answers is not.
  ///
  /// - Returns: the address with the port that was taken.
  package func listen(
    on address: HTTPListenAddress, tls: TLSIdentity? = nil
  ) throws(HTTPListenError) -> HTTPListenAddress {
    let socket = try ListeningSocket(address)
    let daemon: MicrohttpdDaemon
    do {
      daemon = try MicrohttpdDaemon(service: service, tls: tls)
    } catch {
      socket.close()
      let advice = tls == nil ? "" : "; check that certificate and key are PEM and belong together"
      throw HTTPListenError(address: address, reason: error.message + advice)
    }
    guard thread.add(socket, daemon) else {
      daemon.stop()
      socket.close()
      throw HTTPListenError(address: address, reason: "the server is stopping")
    }
    return socket.address
  }

  /// Stops: accepts nothing more, ends the event streams, refuses new requests with the fault `stopping`, waits at
  /// most `grace` for the requests in flight, cancels the handlers of those that remain and answers them with that
  /// fault too, then closes everything. Takes at most the grace and the option `flushTime`.
  ///
  /// May be called again, and then returns when the server has stopped.
  package func stop(grace: Duration) async {
    thread.requestStop(grace: grace)
    await thread.stopped()
  }

  package var counts: Counts {
    Counts(
      connections: service.connections.count, exchanges: service.liveRequests.exchangeCount,
      requests: service.liveRequests.requestCount,
      eventStreams: service.liveRequests.streamCount)
  }
}
