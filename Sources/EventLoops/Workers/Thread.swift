import CLiburing
import Glibc

/// A thread of our own, outside Swift's pool.
struct Thread: Sendable {
  private let handle: pthread_t

  private final class Start {
    let name: String
    let body: @Sendable () -> Void
    init(name: String, body: @escaping @Sendable () -> Void) {
      self.name = name
      self.body = body
    }
  }

  /// Starts `body`. Signals are left to the main thread.
  /// - Parameter name: shown by `top -H`; the kernel keeps 15 bytes.
  init(name: String, _ body: @escaping @Sendable () -> Void) throws(SystemError) {
    var handle = pthread_t()
    var all = sigset_t()
    var before = sigset_t()
    sigfillset(&all)
    pthread_sigmask(SIG_SETMASK, &all, &before)
    defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
    let start = Unmanaged.passRetained(Start(name: name, body: body))
    let result = pthread_create(&handle, nil, threadEntry, start.toOpaque())
    guard result == 0 else {
      start.release()
      throw SystemError(result, "a thread can't be started")
    }
    self.handle = handle
  }

  fileprivate static func enter(_ argument: UnsafeMutableRawPointer) {
    let start = Unmanaged<Start>.fromOpaque(argument).takeRetainedValue()
    pthread_setname_np(pthread_self(), String(start.name.prefix(15)))
    start.body()
  }

  /// Waits for the thread's end; exactly one of `join` and `detach` is called.
  func join() { pthread_join(handle, nil) }
  func detach() { pthread_detach(handle) }
}

private func threadEntry(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
  if let argument { Thread.enter(argument) }
  return nil
}

/// A counting semaphore for threads (never for tasks).
final class Semaphore: @unchecked Sendable {
  // Safe to share: sem_t is made for it.
  private let semaphore = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)

  init() { sem_init(semaphore, 0, 0) }

  deinit {
    sem_destroy(semaphore)
    semaphore.deallocate()
  }

  func signal() { sem_post(semaphore) }

  func wait() {
    while sem_wait(semaphore) != 0 {}
  }

  /// False if nothing came before the deadline.
  func wait(until deadline: MonotonicTime) -> Bool {
    var time = deadline.timespec
    while sem_clockwait(semaphore, CLOCK_MONOTONIC, &time) != 0 {
      if errno == ETIMEDOUT { return false }
    }
    return true
  }
}
