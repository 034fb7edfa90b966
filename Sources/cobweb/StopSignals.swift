import Foundation
import Glibc
import Logging

/// SIGTERM, SIGINT and SIGHUP as something that is told, instead of as a sudden end.
///
/// To be made before any other thread: the mask is inherited.
struct StopSignals {
  private let set: sigset_t

  /// Takes the signals out of their ordinary course, in this thread and all that it will start.
  init() {
    var set = sigset_t()
    sigemptyset(&set)
    for number in [SIGTERM, SIGINT, SIGHUP] { sigaddset(&set, number) }
    pthread_sigmask(SIG_BLOCK, &set, nil)
    self.set = set
    // A client that goes away in mid-answer is an error of that write, not of the program.
    signal(SIGPIPE, SIG_IGN)
  }

  /// Waits for them on a thread of its own, while the program lives. The first SIGTERM or SIGINT is told by name; the
  /// next one ends the program at once, for a person who doesn't want to wait.
  func listen(_ onStop: @Sendable @escaping (String) -> Void) {
    let set = set
    Thread.detachNewThread {
      var set = set
      var isStopping = false
      while true {
        var number: Int32 = 0
        guard sigwait(&set, &number) == 0 else { continue }
        if number == SIGHUP {
          Logger(label: "cobweb").warning(
            "SIGHUP is ignored: the configuration is read at the start alone; start again to apply a change")
        } else if isStopping {
          signal(number, SIG_DFL)
          pthread_sigmask(SIG_UNBLOCK, &set, nil)
          raise(number)
        } else {
          isStopping = true
          onStop(number == SIGINT ? "SIGINT" : "SIGTERM")
        }
      }
    }
  }
}
