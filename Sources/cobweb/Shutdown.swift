import Catalog
import Engine
import EventLoops
import HTTPServer
import Logging
import Model
import Orchestrator

/// How the parts of a server end: nothing new is let in, what runs is brought to a halt, then all is closed, in the
/// order of dependence.
///
/// S1. It takes ``limit`` at most. A part that doesn't end in its time (a disk or a network that doesn't answer) goes
///     on beside those that end after it: none waits for it for ever, and other images are flushed and closed.
/// S2. It says what goes on then. The process ends with it all the same; the next start finds out what it came to, as
///     after a crash.
struct Shutdown: Sendable {
  let service: BackupService
  /// Nil at a start that failed before there was one.
  var web: WebServer?
  let engine: LocalEngine
  let group: EventLoopGroup
  let catalog: SQLiteCatalog

  /// What running jobs and requests get to halt.
  static let grace = Duration.seconds(10)
  /// What closing images and the catalog may take beyond that.
  static let closeTime = Duration.seconds(10)
  /// What answers under way get at least, to flow out.
  private static let leastRequestTime = Duration.seconds(1)

  /// Between two looks at what is on its last steps.
  private static let lastLook = Duration.milliseconds(50)

  static var limit: Duration { grace + closeTime }

  /// Returns what still goes on, in words; empty if everything has ended.
  func run() async -> [String] {
    let start = ContinuousClock.now
    let halt = start + Self.grace
    let end = start + Self.limit
    _ = await finishes(by: halt) { [service] in await service.stop(grace: Self.grace) }
    if let web {
      let grace = max(halt - .now, Self.leastRequestTime)
      _ = await finishes(by: min(.now + grace * 2, end)) { await web.stop(grace: grace) }
    }
    let isEngineDown = await finishes(by: end) { [engine] in await engine.shutDown(until: end - Self.closeTime / 2) }
    let areLoopsDown = await finishes(by: end) { [group] in await group.shutdown() }
    let isCatalogClosed = await finishes(by: end) { [catalog] in
      do { try catalog.close() } catch { Logger(label: "cobweb").error("closing the catalog: \(error)") }
    }
    // What was late may be on its last steps.
    while !unfinished.isEmpty, ContinuousClock.now < end { try? await Task.sleep(for: Self.lastLook) }
    let rest = unfinished
    guard rest.isEmpty else { return rest }
    return [
      isEngineDown ? nil : "the closing of images",
      areLoopsDown ? nil : "the event loops", isCatalogClosed ? nil : "the closing of the catalog",
    ].compactMap(\.self)
  }

  /// What goes on at this moment. Any thread may ask, at any time.
  var unfinished: [String] {
    let requests = web?.counts.requests ?? 0
    return service.unfinished + engine.unfinished + catalog.unfinished
      + (requests == 0 ? [] : [requests == 1 ? "1 request" : "\(requests) requests"])
  }
}
