import BlockCore
import EventLoops
import Locks

/// A device under a name that clients ask for.
///
/// It doesn't own the device: its maker closes the device after ``remove(_:)``. It may be published on several
/// listeners; what it serves, it serves on the device's home loop.
package final class NBDExport: Sendable {
  package struct Options: Sendable {
    /// For people, in listings.
    package var description = ""
    /// Refuses changes even if the device would take them.
    package var isReadOnly = false
    /// Offered to clients with TLS only, where the listener leaves it open.
    package var requiresTLS = false
    /// Clients may spread their requests over several connections. True is right for every device of ours: all
    /// connections share it, and its flush covers all that was answered.
    package var allowsMultipleConnections = true
    /// At the start; see ``NBDExport/setContexts(_:)``.
    package var contexts: [any ExportContext] = [AllocationContext(), AllocationDepthContext()]

    package init() {}
  }

  /// How an export is taken away.
  package enum Removal: Hashable, Sendable {
    /// Only if no client uses it.
    case safe
    /// Clients are cut off; their requests in flight end first, within the grace.
    case hard(grace: Duration)
  }

  /// A client uses the export, so it stays.
  package struct InUse: Error, Hashable, Sendable, CustomStringConvertible {
    package let name: String
    package let clientCount: Int
    package var description: String {
      "export “\(name)” has \(clientCount) \(clientCount == 1 ? "client" : "clients"); disconnect them or remove it by force"
    }
  }

  private struct State {
    var contexts: [any ExportContext]
    var isRemoved = false
    var transmissions: [ObjectIdentifier: (transmission: Transmission, listener: NBDListener, client: ExportClient)] =
      [:]
    var waiters: [UnsafeContinuation<Void, Never>] = []
  }

  package let name: String
  package let options: Options
  package let loop: EventLoop
  package let device: any BlockDevice
  /// The device, if it can hand over its bytes uncopied.
  let pipeSource: (any PipeSource)?
  let counters = ExportCounters()
  private let state: Lock<State>

  /// - Parameters:
  ///   - name: at most 4096 bytes of UTF-8, without NUL.
  ///   - device: on `loop`; takes any range, as clients are told, of up to ``WireLimits/payloadByteCount``; stays open
  ///     until the export was removed.
  package init(
    name: String, device: any BlockDevice, loop: EventLoop, options: Options = Options()
  ) {
    precondition(name.utf8.count <= WireLimits.stringByteCount && !name.utf8.contains(0), "not an export name")
    precondition(
      device.limits.requestAlignment == 1 && device.limits.maximumTransferByteCount >= WireLimits.payloadByteCount,
      "not a device that takes any range")
    self.name = name
    self.options = options
    self.loop = loop
    self.device = device
    state = Lock(State(contexts: options.contexts))
    pipeSource = device as? any PipeSource
  }

  package var figures: ExportFigures { counters.current }

  /// Its clients now, one for each connection, in no order.
  package var clients: [ExportClient] { state.withLock { $0.transmissions.values.map(\.client) } }

  /// What clients that connect now are offered.
  var contexts: [any ExportContext] { state.withLock { $0.contexts } }

  /// Has clients that connect from now on offered these; the others keep those that they have.
  package func setContexts(_ contexts: [any ExportContext]) { state.withLock { $0.contexts = contexts } }

  /// True from the moment on when it is taken away: no client gets in any more.
  var isRemoved: Bool { state.withLock { $0.isRemoved } }

  var listing: ExportListing { ExportListing(name: name, description: options.description) }

  /// What a client that asks now is offered. On the home loop.
  func offer() -> ExportOffer {
    let limits = device.limits
    var flags: TransmissionFlags = [.hasFlags, .sendCache]
    if options.isReadOnly || device.isReadOnly {
      flags.insert(.readOnly)
    } else {
      flags.formUnion([.sendFlush, .sendFUA, .sendTrim, .sendWriteZeroes, .sendFastZero])
    }
    if options.allowsMultipleConnections { flags.insert(.canMultiConn) }
    let preferred = UInt32(Self.powerOfTwo(atLeast: max(512, limits.requestAlignment, limits.preferredByteCount)))
    return ExportOffer(
      name: name, description: options.description, byteCount: device.byteCount, flags: flags,
      blockSizes: BlockSizes(minimum: 1, preferred: preferred, maximum: UInt32(WireLimits.payloadByteCount)),
      contextNames: contexts.map(\.name), requiresTLS: options.requiresTLS)
  }

  private static func powerOfTwo(atLeast count: Int) -> Int {
    var size = 512
    while size < count, size < WireLimits.payloadByteCount { size *= 2 }
    return size
  }

  // MARK: Clients

  /// Lets a client in; false if the export was removed meanwhile.
  func enter(_ transmission: Transmission, of listener: NBDListener, _ client: ExportClient) -> Bool {
    let isIn = state.withLock { state in
      if !state.isRemoved { state.transmissions[ObjectIdentifier(transmission)] = (transmission, listener, client) }
      return !state.isRemoved
    }
    if isIn { counters.clientCame() }
    return isIn
  }

  func leave(_ transmission: Transmission) {
    counters.clientLeft()
    let waiters = state.withLock { state in
      state.transmissions[ObjectIdentifier(transmission)] = nil
      guard state.transmissions.isEmpty else { return [UnsafeContinuation<Void, Never>]() }
      defer { state.waiters = [] }
      return state.waiters
    }
    for waiter in waiters { waiter.resume() }
  }

  /// Takes the export away; afterwards nothing uses the device any more, and no client gets in.
  package func remove(_ removal: Removal) async throws(InUse) {
    let (transmissions, inUse) = state.withLock { state in
      if removal == .safe, !state.transmissions.isEmpty {
        return ([Transmission](), state.transmissions.count)
      }
      state.isRemoved = true
      return (state.transmissions.values.map(\.transmission), 0)
    }
    if inUse > 0 { throw InUse(name: name, clientCount: inUse) }
    if case .hard(let grace) = removal {
      for transmission in transmissions { await transmission.stop(grace: grace) }
    }
    await untilEmpty()
  }

  /// Cuts off the clients that came by `listener`, their requests in flight first.
  func stopClients(of listener: NBDListener, grace: Duration) async {
    let stopped = state.withLock { state in
      state.transmissions.values.filter { $0.listener === listener }.map(\.transmission)
    }
    for transmission in stopped { await transmission.stop(grace: grace) }
    for transmission in stopped { await transmission.untilEnded() }
  }

  private func untilEmpty() async {
    await withUnsafeContinuation { (continuation: UnsafeContinuation<Void, Never>) in
      let isEmpty = state.withLock { state in
        if !state.transmissions.isEmpty { state.waiters.append(continuation) }
        return state.transmissions.isEmpty
      }
      if isEmpty { continuation.resume() }
    }
  }
}
