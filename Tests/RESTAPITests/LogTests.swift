import HTTPServer
import Locks
import Logging
import ModelTesting
import Orchestrator
import RESTAPI
import Testing

/// What of the requests stands in the server's log.
struct LogTests {
  private struct Recorder: LogHandler {
    let lines: Lock<[String]>
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.trace

    init(_ lines: Lock<[String]>) { self.lines = lines }

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
      get { metadata[key] }
      set { metadata[key] = newValue }
    }

    func log(event: LogEvent) { lines.withLock { $0.append("\(event.level) \(event.message)") } }
  }

  private struct Mishap: Error {}

  /// A client can break off as often as it likes: only what went wrong here is worth a line.
  @Test func clientThatBreaksOffLeavesNoLine() {
    let lines = Lock<[String]>([])
    let logger = Logger(label: "test") { _ in Recorder(lines) }
    let service = BackupService(
      catalog: InMemoryCatalog(), engine: ScriptedEngine(), time: ManualClock(), logger: logger)
    let responder = APIResponder(
      service: service, version: "0.1.0", hosts: HostList(names: []), logger: logger)
    let request = HTTPRequest(method: "POST", path: "/api/v1/images")
    for error in [HTTPClientGone(), CancellationError()] as [any Error] {
      _ = responder.response(to: .internalError(error), for: request)
      #expect(lines.withLock { $0 } == [], "\(error)")
    }
    #expect(responder.response(to: .internalError(Mishap()), for: request).status == 500)
    #expect(lines.withLock { $0 } == ["error request failed"])
  }
}
