import Glibc
import Synchronization

/// An open file of any kind (file, folder, socket, epoll, eventfd) and the duty to close it, once.
///
/// The rule of every room: from the system call that makes it on, a descriptor belongs to a `FileDescriptor`, and
/// nothing else closes one. A number that was closed may name another file of the program a moment later; a second
/// `close` takes that file away from its owner. The danger is greatest in an initialiser that throws: once all stored
/// properties are set, Swift runs `deinit`, after whatever the initialiser has tidied up by hand. So no type that has
/// a descriptor, or another handle of C, tidies up in `init`: the property that holds it does. (`make lint` finds
/// calls of `close` elsewhere.)
///
/// May be shared; its owner makes sure that nothing uses it while or after it is closed explicitly.
package final class FileDescriptor: Sendable {
  @usableFromInline
  let number: Atomic<Int32>

  /// Takes over `descriptor`, which must be open.
  package init(adopting descriptor: Int32) {
    precondition(descriptor >= 0)
    number = Atomic(descriptor)
  }

  /// Takes over what a system call returned. Nil if the call has failed: its errno still stands.
  package convenience init?(result: Int32) {
    guard result >= 0 else { return nil }
    self.init(adopting: result)
  }

  deinit { close() }

  /// The kernel's number, −1 once closed (which every system call answers with EBADF).
  @inlinable package var rawValue: Int32 { number.load(ordering: .relaxed) }

  /// Closes the file now rather than with its last reference. May block for a file with locks or dirty pages on a
  /// network file system, so loops do it through `blocking`. Idempotent.
  package func close() {
    let descriptor = release()
    if descriptor >= 0 { _ = Glibc.close(descriptor) }
  }

  /// Gives the number, and the duty to close it, to a library that takes descriptors over; −1 once closed.
  package func release() -> Int32 {
    number.exchange(-1, ordering: .acquiringAndReleasing)
  }
}
