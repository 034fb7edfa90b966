import Glibc

/// SIGTERM and SIGINT as something to wait for, instead of as a sudden end.
///
/// To be made before any other thread: the mask is inherited.
struct StopSignals {
  private var set = sigset_t()

  /// Takes the signals out of their ordinary course, in this thread and all that it will start.
  init() {
    sigemptyset(&set)
    sigaddset(&set, SIGTERM)
    sigaddset(&set, SIGINT)
    pthread_sigmask(SIG_BLOCK, &set, nil)
    // A client that goes away in mid-answer is an error of that write, not of the program.
    signal(SIGPIPE, SIG_IGN)
  }

  /// Blocks until one comes; its name.
  func wait() -> String {
    var set = set
    var number: Int32 = 0
    sigwait(&set, &number)
    return number == SIGINT ? "SIGINT" : "SIGTERM"
  }

  /// From now on the next one ends the program at once: for a person whose patience is at its end.
  func restoreDefault() {
    var set = set
    pthread_sigmask(SIG_UNBLOCK, &set, nil)
  }
}
