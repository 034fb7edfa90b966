import CMicrohttpd
import Glibc
import Locks
import Logging

/// What libmicrohttpd says while it starts, to explain a failure.
private struct StartLog: Sendable {
  var isOver = false
  var message = "libmicrohttpd didn't start"
}

/// One running daemon of libmicrohttpd: the threads that serve the connections of one address.
///
/// It doesn't listen by itself: connections are handed to it. That keeps two faults of 0.9.75 away, each of which
/// ends the process or hangs it: `MHD_quiesce_daemon` races with the threads that it tells, and a connection that
/// meets the daemon's own limit leaves a mutex locked. So the accepting thread keeps the limit, and the daemon's own
/// is out of reach.
final class MicrohttpdDaemon: @unchecked Sendable {
  // Safe to share: `handle` is set once before the daemon is known to others, and libmicrohttpd's functions that are
  // used here may be called on any thread. `stop` is called once, last.
  let service: RequestService
  private let startLog = Lock(StartLog())
  private var handle: OpaquePointer?

  /// - Throws: what libmicrohttpd said.
  init(service: RequestService, tls: TLSIdentity?) throws(DaemonStartError) {
    self.service = service
    handle = start(tls)
    let message = startLog.withLock { log in
      log.isOver = true
      return log.message
    }
    guard handle != nil else { throw DaemonStartError(message: message) }
  }

  /// Serves a connection that was just accepted, and owns it from here on, whatever the outcome.
  func add(_ descriptor: Int32, _ address: UnsafePointer<sockaddr>, _ size: socklen_t) -> Bool {
    MHD_add_connection(handle, descriptor, address, size) == .YES
  }

  /// Ends every connection and joins the daemon's threads: blocks, and must come after nothing is suspended any more.
  func stop() {
    MHD_stop_daemon(handle)
    handle = nil
  }

  private func start(_ tls: TLSIdentity?) -> OpaquePointer? {
    var flags = MHD_USE_EPOLL_INTERNAL_THREAD.rawValue | MHD_ALLOW_SUSPEND_RESUME.rawValue | MHD_USE_ITC.rawValue
    flags |= MHD_USE_ERROR_LOG.rawValue | MHD_USE_NO_LISTEN_SOCKET.rawValue
    if tls != nil { flags |= MHD_USE_TLS.rawValue }
    // libmicrohttpd parses these while it starts.
    let texts = tls.map { [$0.certificatePEM, $0.keyPEM, Self.priorities] } ?? []
    let strings = texts.map { strdup($0) }
    defer { strings.forEach { free($0) } }
    var items = options()
    if strings.count == 3 {
      items.append(Self.item(.HTTPS_MEM_CERT, 0, strings[0]))
      items.append(Self.item(.HTTPS_MEM_KEY, 0, strings[1]))
      items.append(Self.item(.HTTPS_PRIORITIES, 0, strings[2]))
    }
    items.append(Self.item(.END, 0))
    let context = Unmanaged.passUnretained(self).toOpaque()
    return items.withUnsafeMutableBufferPointer { items in
      let arguments: [any CVarArg] = [
        Int32(MHD_OPTION.ARRAY.rawValue), OpaquePointer(items.baseAddress!), Int32(MHD_OPTION.END.rawValue),
      ]
      return withVaList(arguments) { MHD_start_daemon_va(flags, 0, nil, nil, handleRequest, context, $0) }
    }
  }

  /// TLS 1.2 and later.
  private static let priorities = "NORMAL:-VERS-TLS1.0:-VERS-TLS1.1"

  private func options() -> [MHD_OptionItem] {
    let context = Unmanaged.passUnretained(self).toOpaque()
    let options = service.options
    // Split over the threads, so that no thread's share can be reached.
    let unreachable = (options.connectionLimit + 1) * options.threads * 2
    var items = [
      // First, so that it sees what the other options say.
      Self.item(.EXTERNAL_LOGGER, unsafeBitCast(logMessage, to: Int.self), context),
      Self.item(.NOTIFY_COMPLETED, unsafeBitCast(requestCompleted, to: Int.self), context),
      Self.item(.NOTIFY_CONNECTION, unsafeBitCast(connectionChanged, to: Int.self), context),
      Self.item(.URI_LOG_CALLBACK, unsafeBitCast(requestLineSeen, to: Int.self), context),
      Self.item(.UNESCAPE_CALLBACK, unsafeBitCast(leaveEscaped, to: Int.self), context),
      Self.item(.CONNECTION_LIMIT, unreachable),
      Self.item(.CONNECTION_TIMEOUT, Int(max(options.connectionTimeout.components.seconds, 1))),
      Self.item(.CONNECTION_MEMORY_LIMIT, options.headerMemoryBytes),
      Self.item(.STRICT_FOR_CLIENT, 1),
    ]
    if options.threads > 1 { items.append(Self.item(.THREAD_POOL_SIZE, options.threads)) }
    return items
  }

  private static func item(
    _ option: MHD_OPTION, _ value: Int, _ pointer: UnsafeMutableRawPointer? = nil
  ) -> MHD_OptionItem {
    MHD_OptionItem(option: option, value: value, ptr_value: pointer)
  }

  fileprivate func log(_ message: () -> String) {
    let isStarted = startLog.withLock { log in
      if !log.isOver { log.message = message() }
      return log.isOver
    }
    // All of it is about what clients do and how they end.
    if isStarted { service.logger.debug("libmicrohttpd: \(message())") }
  }
}

/// libmicrohttpd refused to start.
struct DaemonStartError: Error, Sendable {
  let message: String
}

// MARK: Callbacks, on libmicrohttpd's threads. Their first argument is the daemon, not retained.

extension MicrohttpdDaemon {
  fileprivate static func from(_ context: UnsafeMutableRawPointer?) -> MicrohttpdDaemon? {
    context.map { Unmanaged<MicrohttpdDaemon>.fromOpaque($0).takeUnretainedValue() }
  }
}

private typealias RequestLineCallback =
  @convention(c) (UnsafeMutableRawPointer?, UnsafePointer<CChar>?, OpaquePointer?) -> UnsafeMutableRawPointer?
private typealias UnescapeCallback =
  @convention(c) (UnsafeMutableRawPointer?, OpaquePointer?, UnsafeMutablePointer<CChar>?) -> Int

/// The request line is read, the target still as sent: the exchange begins, held by libmicrohttpd as the request's
/// context until `requestCompleted`.
private let requestLineSeen: RequestLineCallback = { context, target, _ in
  guard let daemon = MicrohttpdDaemon.from(context) else { return nil }
  let bytes = target.map { Array(UnsafeRawBufferPointer(start: $0, count: strlen($0))) } ?? []
  let exchange = Exchange(
    number: daemon.service.liveRequests.nextNumber(), target: bytes, targetAddress: UInt(bitPattern: target),
    service: daemon.service)
  return Unmanaged.passRetained(exchange).toOpaque()
}

/// Leaves escapes as they are: the router decodes them, once.
private let leaveEscaped: UnescapeCallback = { _, _, text in
  text.map { strlen($0) } ?? 0
}

private let handleRequest: MHD_AccessHandlerCallback = { _, connection, _, method, version, piece, size, context in
  guard let connection, let method, let version, let size, let pointer = context?.pointee else { return .NO }
  let exchange = Unmanaged<Exchange>.fromOpaque(pointer).takeUnretainedValue()
  let call = Exchange.Call(
    connection: connection, method: method, version: version,
    piece: UnsafeRawBufferPointer(start: piece, count: piece == nil ? 0 : size.pointee))
  switch exchange.handle(call) {
  case .consumed:
    size.pointee = 0
    return .YES
  case .held:
    return .YES
  case .broken:
    return .NO
  }
}

private let requestCompleted: MHD_RequestCompletedCallback = { daemon, connection, context, _ in
  if let connection {
    MicrohttpdDaemon.from(daemon)?.service.connections.awaitHead(cmhd_connection_fd(connection))
  }
  guard let context, let pointer = context.pointee else { return }
  context.pointee = nil
  let exchange = Unmanaged<Exchange>.fromOpaque(pointer).takeRetainedValue()
  exchange.close()
  exchange.service.liveRequests.leave(exchange)
}

private let connectionChanged: MHD_NotifyConnectionCallback = { context, connection, _, change in
  guard cmhd_is_closed(change) != 0, let connection else { return }
  MicrohttpdDaemon.from(context)?.service.connections.leave(cmhd_connection_fd(connection))
}

private let logMessage: MHD_LogCallback = { context, format, arguments in
  guard let daemon = MicrohttpdDaemon.from(context), let format, let arguments else { return }
  daemon.log {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: 512) { buffer in
      guard let start = buffer.baseAddress, vsnprintf(start, buffer.count, format, arguments) >= 0 else { return "" }
      let text = String(cString: start)
      return text.hasSuffix("\n") ? String(text.dropLast()) : text
    }
  }
}
