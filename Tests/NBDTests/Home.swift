import BlockCore
import BlockTesting
import Bytes
import EventLoops
import Foundation
import NBD
import Testing

/// An actor on a loop: a home for client devices.
actor Home {
  let loop: EventLoop
  nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

  init(on loop: EventLoop) { self.loop = loop }

  func run<Result: Sendable>(_ body: @Sendable (isolated Home) async throws -> Result) async throws -> Result {
    try await body(self)
  }
}

/// Runs `body` on a loop of the group.
func atHome<Result: Sendable>(
  _ loops: EventLoopGroup, _ body: @Sendable @escaping (isolated Home) async throws -> Result
) async throws -> Result {
  let home = Home(on: loops.next())
  return try await home.loop.run { try await home.run(body) }
}

extension World {
  /// Opens an export with our own client, and closes it whatever happens.
  func withClient<Result: Sendable>(
    _ name: String = "", _ options: NBDDevice.Options = NBDDevice.Options(),
    _ body: @Sendable @escaping (isolated Home, NBDDevice) async throws -> Result
  ) async throws -> Result {
    let uri = try NBDURI(uri(name))
    return try await withDevice(uri, options, loops, body)
  }
}

func withDevice<Result: Sendable>(
  _ uri: NBDURI, _ options: NBDDevice.Options, _ loops: EventLoopGroup,
  _ body: @Sendable @escaping (isolated Home, NBDDevice) async throws -> Result
) async throws -> Result {
  try await atHome(loops) { home in
    let device = try await NBDDevice.open(uri, options, on: home.loop)
    do {
      let result = try await body(home, device)
      try await device.close()
      return result
    } catch {
      try? await device.close()
      throw error
    }
  }
}

/// Every style of headers, for stories that must hold in each.
enum Style: CaseIterable, Sendable {
  case simple, structured, extended

  var options: NBDDevice.Options {
    var options = NBDDevice.Options()
    options.usesStructuredReplies = self != .simple
    options.usesExtendedHeaders = self == .extended
    options.contexts = ["base:allocation", "qemu:allocation-depth"]
    return options
  }

  var headers: HeaderStyle {
    switch self {
    case .simple: .simple
    case .structured: .structured
    case .extended: .extended
    }
  }
}
