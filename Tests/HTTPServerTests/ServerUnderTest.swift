import Foundation
import Glibc
import HTTPServer
import Locks
import Testing

/// All suites of the server, one test at a time: they measure times and count connections.
@Suite(.serialized) struct ServerSuites {}

/// A responder made of closures; faults are answered with their name as text.
struct TestResponder: HTTPResponder {
  var admits: @Sendable (HTTPRequest) -> HTTPAdmission = { _ in .accept(bodyLimit: 64 << 20) }
  var answersNow: @Sendable (HTTPRequest) -> HTTPResponse? = { _ in nil }
  var answers: @Sendable (HTTPRequest) async throws -> HTTPResponse = { _ in .text(404, "nothing here") }

  func admit(_ request: HTTPRequest) -> HTTPAdmission { admits(request) }
  func answerNow(_ request: HTTPRequest) -> HTTPResponse? { answersNow(request) }
  func answer(_ request: HTTPRequest) async throws -> HTTPResponse { try await answers(request) }

  func response(to fault: HTTPFault, for request: HTTPRequest) -> HTTPResponse {
    switch fault {
    case .malformedTarget: .text(400, "malformed target")
    case .badFraming: .text(400, "bad framing")
    case .bodyTooLarge(let limit): .text(413, "more than \(limit)")
    case .tooManyEventStreams(let limit): .text(503, "more than \(limit) streams")
    case .stopping: .text(503, "stopping")
    case .internalError(let error): .text(500, "\(error)")
    }
  }
}

extension HTTPResponse {
  static func text(_ status: Int, _ text: String) -> HTTPResponse {
    HTTPResponse(status: status, headers: ["Content-Type": "text/plain"], content: .bytes(Array(text.utf8)))
  }
}

/// One thread that runs tasks, as the program's own executor would.
final class OneThreadExecutor: TaskExecutor, @unchecked Sendable {
  // The queue is guarded by the condition.
  private let condition = NSCondition()
  private var jobs: [UnownedJob] = []
  private var isEnded = false
  private var thread: pthread_t?

  init() {
    Thread { [self] in run() }.start()
  }

  /// The caller runs on the executor's thread.
  var isCurrent: Bool {
    condition.withLock { thread.map { pthread_equal($0, pthread_self()) != 0 } ?? false }
  }

  func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    condition.withLock {
      jobs.append(job)
      condition.signal()
    }
  }

  func end() {
    condition.withLock {
      isEnded = true
      condition.signal()
    }
  }

  private func run() {
    condition.withLock { thread = pthread_self() }
    while let job = next() {
      job.runSynchronously(on: asUnownedTaskExecutor())
    }
  }

  private func next() -> UnownedJob? {
    condition.withLock {
      while jobs.isEmpty, !isEnded { condition.wait() }
      return jobs.isEmpty ? nil : jobs.removeFirst()
    }
  }
}

/// Something that happens once, waited for by tasks.
final class Gate: Sendable {
  private struct State: Sendable {
    var isOpen = false
    var waiters: [UInt64: CheckedContinuation<Void, Never>] = [:]
    var next: UInt64 = 0
  }

  private let state = Lock(State())

  func open() {
    let waiters = state.withLock { state in
      state.isOpen = true
      defer { state.waiters = [:] }
      return Array(state.waiters.values)
    }
    waiters.forEach { $0.resume() }
  }

  /// Returns when the gate opens or the task is cancelled.
  func wait() async {
    let number = state.withLock { state in
      state.next += 1
      return state.next
    }
    await withTaskCancellationHandler {
      await withCheckedContinuation { waiter in
        let atOnce = state.withLock { state in
          if state.isOpen || Task.isCancelled { return true }
          state.waiters[number] = waiter
          return false
        }
        if atOnce { waiter.resume() }
      }
    } onCancel: {
      state.withLock { $0.waiters.removeValue(forKey: number) }?.resume()
    }
  }
}

/// Runs blocking work on a thread of its own, so that the pool that serves the handlers stays free.
func blocking<Result: Sendable>(_ body: @escaping @Sendable () throws -> Result) async throws -> Result {
  try await withCheckedThrowingContinuation { done in
    Thread { done.resume(with: Swift.Result { try body() }) }.start()
  }
}

/// True as soon as `condition` is, false if it isn't within `seconds`.
func eventually(seconds: Double = 5, _ condition: () -> Bool) async -> Bool {
  let end = ContinuousClock.now + .seconds(seconds)
  while ContinuousClock.now < end {
    if condition() { return true }
    try? await Task.sleep(for: .milliseconds(5))
  }
  return condition()
}

/// Runs `body` against a server on a free port of 127.0.0.1, stops it, and checks that nothing of it stays behind.
func withServer(
  _ responder: TestResponder, options: WebServerOptions = WebServerOptions(),
  at wanted: HTTPListenAddress = .tcp(host: "127.0.0.1", port: 0), tls: TLSIdentity? = nil,
  _ body: @Sendable (WebServer, HTTPListenAddress) async throws -> Void
) async throws {
  let server = try WebServer(options: options, responder: responder)
  let address = try server.listen(on: wanted, tls: tls)
  do {
    try await body(server, address)
  } catch {
    await server.stop(grace: .zero)
    throw error
  }
  await server.stop(grace: .seconds(2))
  #expect(await eventually { server.counts == WebServer.Counts(connections: 0, exchanges: 0, eventStreams: 0) })
}

/// A folder that is gone after `body`.
func withFolder(_ body: (String) async throws -> Void) async throws {
  var template = Array("/tmp/http-test-XXXXXX".utf8CString)
  guard mkdtemp(&template) != nil else { throw POSIXError(.EIO) }
  let folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  defer { try? FileManager.default.removeItem(atPath: folder) }
  try await body(folder)
}

/// Runs a program through the shell and returns its exit status and all it printed.
func run(_ program: String, _ arguments: [String]) async throws -> (status: Int32, output: String) {
  let words = ([program] + arguments).map { "'" + $0.replacingOccurrences(of: "'", with: "'\\''") + "'" }
  let command = words.joined(separator: " ") + " 2>&1"
  return try await blocking {
    guard let pipe = popen(command, "r") else { throw POSIXError(.EIO) }
    var output: [UInt8] = []
    var block = [UInt8](repeating: 0, count: 64 << 10)
    while case let count = fread(&block, 1, block.count, pipe), count > 0 { output += block[..<count] }
    return (pclose(pipe), String(decoding: output, as: UTF8.self))
  }
}
