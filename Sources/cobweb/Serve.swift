import ArgumentParser
import Configuration
import Foundation
import Logging

/// `cobweb serve`: runs the server until SIGTERM or SIGINT. SIGHUP changes nothing.
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

  /// What the main thread, which does nothing else, waits for.
  private enum Event: Sendable {
    case started(Result<Server, any Error>)
    /// The signal's name.
    case signal(String)
    /// What still goes on.
    case stopped([String])
  }

  func run() throws {
    if explain {
      print(ConfigurationKey.explanation, terminator: "")
      return
    }
    let signals = StopSignals()
    let events = Mailbox<Event>()
    do {
      let configuration = try ServerConfiguration(file: config, requiresFiles: true)
      Self.startLogging(configuration.logLevel)
      signals.listen { events.post(.signal($0)) }
      if let server = try Self.start(configuration, events) { try Self.stop(server, events) }
    } catch let code as ExitCode {
      throw code
    } catch {
      Self.tell(["cobweb: \(error)"])
      throw ExitCode.failure
    }
  }

  /// Starts the server and waits for the signal to stop it. Nil if the signal came first and broke the start off.
  private static func start(_ configuration: ServerConfiguration, _ events: Mailbox<Event>) throws -> Server? {
    let start = Task.detached {
      do { events.post(.started(.success(try await Server.start(configuration)))) } catch {
        events.post(.started(.failure(error)))
      }
    }
    var deadline: ContinuousClock.Instant?
    var started: Server?
    while let event = events.next(until: deadline) {
      switch event {
      case .started(.success(let server)):
        if deadline != nil { return server }
        tell(server.announcement)
        started = server
      case .started(.failure(let error)):
        if error is CancellationError { return nil }
        throw error
      case .signal(let name):
        if let started {
          tell(["Stopping on \(name): running jobs get \(Shutdown.grace) to halt. Once more ends it at once."])
          return started
        }
        tell(["Stopping on \(name): the start is broken off. Once more ends it at once."])
        start.cancel()
        deadline = .now + Shutdown.limit
      case .stopped: break
      }
    }
    abandon(["the start"])
  }

  private static func stop(_ server: Server, _ events: Mailbox<Event>) throws {
    let shutdown = server.shutdown
    Task.detached { events.post(.stopped(await shutdown.run())) }
    // A little more than the stop gives itself: it can't keep its limit where the disk holds all threads.
    let deadline = ContinuousClock.now + Shutdown.limit + .seconds(1)
    while let event = events.next(until: deadline) {
      guard case .stopped(let rest) = event else { continue }
      guard rest.isEmpty else { abandon(rest) }
      tell(["Stopped: images and the catalog are closed."])
      return
    }
    abandon(shutdown.unfinished)
  }

  /// Ends the process although something goes on in it: what that is, and status 70 (EX_SOFTWARE).
  private static func abandon(_ rest: [String]) -> Never {
    let words = rest.isEmpty ? "the stop itself" : rest.joined(separator: ", ")
    tell(["cobweb: ended after \(Shutdown.limit) although this was still running: \(words)"])
    // Nothing of what the program would do at its end may wait for what hangs.
    _exit(70)
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
}
