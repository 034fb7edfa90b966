import ArgumentParser
import Configuration
import Dispatch
import Foundation
import Logging

/// `cobweb serve`: runs the server until SIGTERM or SIGINT.
struct Serve: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Serves the REST API.",
    discussion: """
      Without --config the defaults hold, with folders beneath the current one; --explain shows them all.
      It is ready when it has printed a line with its URL to standard error.
      """)

  @Option(name: .shortAndLong, help: "The configuration, a YAML file.")
  var config: String?

  @Flag(help: "Print every key of the configuration with its meaning and default, and end.")
  var explain = false

  func run() throws {
    if explain {
      print(ConfigurationKey.explanation, terminator: "")
      return
    }
    let signals = StopSignals()
    do {
      let configuration = try ServerConfiguration(file: config)
      Self.startLogging(configuration.logLevel)
      let server = try Self.wait { try await Server.start(configuration) }
      Self.tell(server.announcement)
      let signal = signals.wait()
      Self.tell(["Stopping on \(signal): running jobs get \(Server.grace) to halt. Once more ends it at once."])
      signals.restoreDefault()
      try Self.wait { await server.stop() }
    } catch {
      Self.tell(["cobweb: \(error)"])
      throw ExitCode.failure
    }
  }

  private static func startLogging(_ level: ServerConfiguration.LogLevel) {
    LoggingSystem.bootstrap { label in
      var handler = StreamLogHandler.standardError(label: label)
      handler.logLevel = Logger.Level(rawValue: level.rawValue) ?? .info
      return handler
    }
  }

  private static func tell(_ lines: [String]) {
    FileHandle.standardError.write(Data(lines.map { $0 + "\n" }.joined().utf8))
  }

  /// Blocks the main thread, which does nothing else, until `work` has ended elsewhere.
  private static func wait<Value: Sendable>(_ work: @Sendable @escaping () async throws -> Value) throws -> Value {
    let ended = DispatchSemaphore(value: 0)
    let outcome = Outcome<Value>()
    Task.detached {
      await outcome.set { try await work() }
      ended.signal()
    }
    ended.wait()
    return try outcome.value()
  }
}
