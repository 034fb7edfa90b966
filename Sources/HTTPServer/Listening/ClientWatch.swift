import CMicrohttpd
import Descriptors
import Glibc

/// Notices that a client has left while its connection is suspended, when libmicrohttpd doesn't look at it,
/// and carries the events of the server's own thread.
///
/// The kernel makes the use of both its files from several threads safe.
final class ClientWatch: Sendable {
  enum Event: Sendable {
    case wake
    case listener(UInt64)
    /// The peer of this exchange has closed its side.
    case clientLeft(UInt64)
  }

  private static let wakeTag: UInt64 = 0
  /// Listeners have the tags from here up, exchanges those without this bit.
  private static let listenerTag: UInt64 = 1 << 63
  /// Events taken at a time.
  private static let batch = 64

  private let poll: FileDescriptor
  private let wakeup: FileDescriptor

  init() throws(ServerSetupError) {
    guard let poll = FileDescriptor(result: epoll_create1(Int32(EPOLL_CLOEXEC))) else {
      throw ServerSetupError(call: "epoll_create1", code: errno)
    }
    self.poll = poll
    guard let wakeup = FileDescriptor(result: eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))) else {
      throw ServerSetupError(call: "eventfd", code: errno)
    }
    self.wakeup = wakeup
    guard control(EPOLL_CTL_ADD, wakeup.rawValue, EPOLLIN.rawValue, Self.wakeTag) else {
      throw ServerSetupError(call: "epoll_ctl", code: errno)
    }
  }

  /// Watches the connection of an exchange whose number isn't 0. Without the memory for it the client's leaving is
  /// only noticed later.
  func add(_ descriptor: Int32, number: UInt64) {
    _ = control(EPOLL_CTL_ADD, descriptor, EPOLLRDHUP.rawValue | EPOLLONESHOT.rawValue, number)
  }

  func remove(_ descriptor: Int32) {
    _ = control(EPOLL_CTL_DEL, descriptor, 0, 0)
  }

  /// Watches a listening socket for connections.
  func addListener(_ descriptor: Int32, number: UInt64) {
    _ = control(EPOLL_CTL_ADD, descriptor, EPOLLIN.rawValue, Self.listenerTag | number)
  }

  /// Wakes the thread in `wait`.
  func wake() {
    eventfd_write(wakeup.rawValue, 1)
  }

  /// The next events; none when `milliseconds` have passed (-1: never).
  func wait(milliseconds: Int32) -> [Event] {
    var events = [epoll_event](repeating: epoll_event(), count: Self.batch)
    let count = epoll_wait(poll.rawValue, &events, Int32(Self.batch), milliseconds)
    guard count > 0 else { return [] }
    return events[..<Int(count)].map { event in
      let tag = event.data.u64
      if tag == Self.wakeTag {
        var ignored: eventfd_t = 0
        eventfd_read(wakeup.rawValue, &ignored)
        return .wake
      }
      if tag & Self.listenerTag != 0 { return .listener(tag & ~Self.listenerTag) }
      return .clientLeft(tag)
    }
  }

  private func control(_ operation: Int32, _ descriptor: Int32, _ events: UInt32, _ tag: UInt64) -> Bool {
    var event = epoll_event()
    event.events = events
    event.data.u64 = tag
    return epoll_ctl(poll.rawValue, operation, descriptor, &event) == 0
  }
}

/// The kernel refused what a server needs to start.
package struct ServerSetupError: Error, Sendable, CustomStringConvertible {
  package let call: String
  package let code: Int32

  package var description: String { "\(call) failed: \(String(cString: strerror(code)))" }
}
