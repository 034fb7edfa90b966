import Bytes
import EventLoops
import Foundation
import NBD

/// Where a scripted server and our client meet: a folder for its socket, and a loop for the client.
struct Stage: Sendable {
  let folder: TemporaryFolder
  let loops: EventLoopGroup
  var socketPath: String { folder.file("server") }
}

/// Runs `body` with a stage, and takes the loop down afterwards.
func withStage(_ body: (Stage) async throws -> Void) async throws {
  let stage = Stage(
    folder: try TemporaryFolder(), loops: try EventLoopGroup(count: 1, backend: testBackend, workerCount: 1))
  do {
    try await body(stage)
    await stage.loops.shutdown()
  } catch {
    await stage.loops.shutdown()
    throw error
  }
}

/// Options with little timeout for one thing, and enough for a busy machine with the others.
func timeout(
  connect: Duration = .seconds(20), reconnect: Duration = .seconds(20), answer: Duration = .seconds(20)
) -> NBDDevice.Options {
  var options = NBDDevice.Options()
  options.connectTimeout = connect
  options.reconnectTimeout = reconnect
  options.answerTimeout = answer
  return options
}

/// Runs `body` with the device and closes it, whether or not the server takes the goodbye.
func withDevice<Result: Sendable>(
  _ stage: Stage, _ options: NBDDevice.Options = timeout(),
  _ body: @Sendable @escaping (isolated Home, NBDDevice) async throws -> Result
) async throws -> Result {
  let uri = try NBDURI("nbd+unix:///disk?socket=\(stage.socketPath)")
  return try await atHome(stage.loops) { home in
    let device = try await NBDDevice.open(uri, options, on: home.loop)
    do {
      let result = try await body(home, device)
      try? await device.close()
      return result
    } catch {
      try? await device.close()
      throw error
    }
  }
}
