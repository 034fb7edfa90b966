// For SHUT_RDWR, which the module Glibc alone may leave out.
import CMicrohttpd
import Glibc
import Locks

/// The open connections: how many there may be, and from whom, and which of them owe a request.
///
/// C1. TCP and unix sockets have half of the connections each: a client that takes all of one can't shut the other's
///     clients out. One address has at most half of TCP's; an IPv6 address counts as its /64, which one host can have whole.
/// C2. A head must be complete in its time, however slowly its bytes come; libmicrohttpd only notices connections on
///     which nothing moves at all.
/// C3. A descriptor is in the table only while it is open: libmicrohttpd tells of a connection's end before it closes
///     the socket.
final class Connections: Sendable {
  /// The clients of one address; nil for a unix socket.
  typealias Address = [UInt8]?

  enum Kind: Sendable, CaseIterable { case tcp, unix }

  private struct Entry {
    let kind: Kind
    let address: Address
    /// When the head that the client owes must be in; nil while a request is worked on.
    var headDeadline: ContinuousClock.Instant?
  }

  private struct State {
    var entries: [Int32: Entry] = [:]
    var counts: [Kind: Int] = [:]
    var ofAddress: [[UInt8]: Int] = [:]
    var headsOwed = 0
  }

  private let options: WebServerOptions
  private let changed: @Sendable () -> Void
  private let state = Lock(State())

  /// - Parameter changed: called on any thread when a connection has closed.
  init(_ options: WebServerOptions, changed: @escaping @Sendable () -> Void) {
    self.options = options
    self.changed = changed
  }

  var count: Int { state.withLock { $0.entries.count } }
  var awaitsHeads: Bool { state.withLock { $0.headsOwed > 0 } }

  /// No more connections of this kind can be had.
  func isFull(_ kind: Kind) -> Bool { state.withLock { $0.counts[kind, default: 0] >= options.listenerLimit } }

  /// Enters a connection that was just accepted. False: its address has as many as it may.
  func enter(_ descriptor: Int32, _ kind: Kind, from address: Address) -> Bool {
    state.withLock { state in
      if let address {
        guard state.ofAddress[address, default: 0] < options.addressLimit else { return false }
        state.ofAddress[address, default: 0] += 1
      }
      state.counts[kind, default: 0] += 1
      state.entries[descriptor] = Entry(kind: kind, address: address, headDeadline: .now + options.headTime)
      state.headsOwed += 1
      return true
    }
  }

  /// The connection is about to be closed.
  func leave(_ descriptor: Int32) {
    let isKnown = state.withLock { state in
      guard let entry = state.entries.removeValue(forKey: descriptor) else { return false }
      state.counts[entry.kind, default: 1] -= 1
      if entry.headDeadline != nil { state.headsOwed -= 1 }
      if let address = entry.address {
        let rest = state.ofAddress[address, default: 1] - 1
        state.ofAddress[address] = rest > 0 ? rest : nil
      }
      return true
    }
    if isKnown { changed() }
  }

  // MARK: Heads

  func headIsIn(_ descriptor: Int32) {
    state.withLock { state in
      guard state.entries[descriptor]?.headDeadline != nil else { return }
      state.entries[descriptor]?.headDeadline = nil
      state.headsOwed -= 1
    }
  }

  /// The request is over: the next one may come.
  func awaitHead(_ descriptor: Int32) {
    state.withLock { state in
      guard let entry = state.entries[descriptor], entry.headDeadline == nil else { return }
      state.entries[descriptor]?.headDeadline = .now + options.connectionTimeout
      state.headsOwed += 1
    }
  }

  /// Ends the connections whose head is late: libmicrohttpd finds them closed by the client.
  func endLate(at now: ContinuousClock.Instant) {
    state.withLock { state in
      for (descriptor, entry) in state.entries {
        guard let deadline = entry.headDeadline, deadline <= now else { continue }
        state.entries[descriptor]?.headDeadline = nil
        state.headsOwed -= 1
        shutdown(descriptor, Int32(SHUT_RDWR))
      }
    }
  }

  /// What counts as one address.
  static func address(_ storage: sockaddr_storage) -> Address {
    withUnsafeBytes(of: storage) { bytes in
      switch Int32(storage.ss_family) {
      // sin_addr; the first half of sin6_addr.
      case AF_INET: Array(bytes[4..<8])
      case AF_INET6: Array(bytes[8..<16])
      default: nil
      }
    }
  }
}
