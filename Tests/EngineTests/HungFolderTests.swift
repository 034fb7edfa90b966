import Engine
import EventLoops
import Foundation
import Glibc
import Locks
import Model
import ModelTesting
import Repositories
import Testing

/// A repository whose storage hangs, as an NFS mount does whose server is gone.
struct HungFolderTests {
  /// Calls on the folder named "hung" block from ``begin()`` until ``end()``.
  private final class Hang: Sendable {
    private let state = Lock((isOn: false, arrivals: 0))

    func begin() { state.withLock { $0.isOn = true } }
    func end() { state.withLock { $0.isOn = false } }
    var arrivals: Int { state.withLock { $0.arrivals } }

    func files(_ folder: Folder) -> any FolderFiles {
      let place = try? FileManager.default.destinationOfSymbolicLink(
        atPath: "/proc/self/fd/\(folder.descriptor.rawValue)")
      if place?.hasSuffix("/hung") == true, state.withLock({ $0.isOn }) {
        state.withLock { $0.arrivals += 1 }
        while state.withLock({ $0.isOn }) { usleep(1000) }
      }
      return LocalFolderFiles(folder)
    }
  }

  @Test(arguments: TestEngine.backends) func hungRepositoryHoldsUpOnlyItself(_ backend: IOBackend) async throws {
    let hang = Hang()
    try await withEngine(backend: backend, openFiles: { hang.files($0) }) { test in
      let location = try test.makeQcow2()
      let path = test.root + "/backup/hung"
      let id = try await test.engine.openRepository(at: path, id: RepositoryID())
      let hung = RepositoryLocation(id: id, path: path)
      hang.begin()
      // More than there are threads for it.
      let scans = (0..<12).map { _ in Task { try await test.engine.scan(hung) } }
      defer { hang.end() }
      try await eventually("its threads are taken") { hang.arrivals == BlockingCalls.threadsPerLane }

      let image = ImageID()
      #expect(try await test.engine.inspect(location).virtualSize == 4 << 20)
      #expect(try await test.engine.extents(of: location, offset: 0, length: nil, limit: 10).items.count > 0)
      let made = try await test.backUp(test.record("vm", location.source.place, .qcow2))
      #expect(try await test.verify(made.place).findings.isEmpty)
      #expect(try await test.engine.scan(test.repository).backups.count == 1)
      try await test.attach(location, as: image)
      let order = test.order("vm", .attachedImage(image), isReadOnly: false)
      try await test.engine.export(order)
      try await Tool.runAside("qemu-io", ["-f", "raw", "-c", "write -P 5 0 64k", "-c", "flush", test.uri(order)])

      // The end closes what guests have written to, and leaves the rest to its fate.
      let start = ContinuousClock.now
      await test.engine.shutDown(until: .now + .seconds(1))
      #expect(ContinuousClock.now - start < .seconds(20))
      try Tool.run("qemu-io", "-f", "qcow2", "-c", "read -P 5 0 64k", location.source.place)
      #expect(hang.arrivals == BlockingCalls.threadsPerLane)
      hang.end()
      for scan in scans { #expect(try await scan.value.backups.isEmpty) }
    }
  }
}
