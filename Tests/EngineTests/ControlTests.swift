import Engine
import EventLoops
import Foundation
import Model
import ModelTesting
import Testing

/// Jobs obey: they stop, stand still, and slow down as they are told.
struct ControlTests {
  static let size: UInt64 = 12 << 20

  private func withSource(_ body: (TestEngine, ImageRecord) async throws -> Void) async throws {
    try await withEngine { test in
      let source = test.images + "/vm.raw"
      try Tool.run("dd", "if=/dev/urandom", "of=\(source)", "bs=1M", "count=12", "status=none")
      try await body(test, test.record("vm", source, .raw))
    }
  }

  @Test func cancelledBackupLeavesNothing() async throws {
    try await withSource { test, image in
      for checkpoint in [1, 3, 6, 12] {
        let control = RecordingJobControl(cancelAtCheckpoint: checkpoint)
        await #expect(throws: CancellationError.self) { try await test.backUp(image, .none, control: control) }
        #expect(test.storedFiles == [])
      }
      let made = try await test.backUp(image, .none)
      for checkpoint in [1, 4, 9] {
        let control = RecordingJobControl(cancelAtCheckpoint: checkpoint)
        await #expect(throws: CancellationError.self) {
          try await test.restore(made.place, to: test.images + "/back.raw", .raw, control: control)
        }
        #expect(TestEngine.files(beneath: test.images) == ["vm.raw"])
        let other = RecordingJobControl(cancelAtCheckpoint: checkpoint)
        await #expect(throws: CancellationError.self) {
          try await test.engine.verify(VerifyOrder(backup: made.place, level: .checksum), control: other)
        }
      }
    }
  }

  @Test func pausedBackupStandsStillUntilItIsResumed() async throws {
    try await withSource { test, image in
      let control = RecordingJobControl()
      control.pause()
      let order = test.order(image, .none)
      async let receipt = test.engine.backUp(order, control: control)
      try await Task.sleep(for: .milliseconds(150))
      // Told of the whole, but nothing of it is done.
      #expect(control.reports.allSatisfy { $0.done == 0 })
      control.resume()
      #expect(try await receipt.virtualSize == Self.size)
      #expect(control.reports.last?.done == Self.size)
    }
  }

  @Test func speedLimitHoldsAndMayBeLifted() async throws {
    try await withSource { test, image in
      let control = RecordingJobControl(speedLimit: 8 << 20)
      let order = test.order(image, .none)
      let start = ContinuousClock.now
      async let receipt = test.engine.backUp(order, control: control)
      try await Task.sleep(for: .milliseconds(500))
      let done = control.reports.last?.done ?? 0
      // Half a second at 8 MiB/s, and what may be ahead of it.
      #expect(done < 8 << 20, "\(done) bytes after \(ContinuousClock.now - start)")
      control.speedLimit = 0
      #expect(try await receipt.virtualSize == Self.size)
      #expect(ContinuousClock.now - start >= .milliseconds(400))
    }
  }

  @Test func imageThatChangesWhileItIsBackedUpIsRefused() async throws {
    try await withSource { test, image in
      let control = RecordingJobControl()
      control.pause()
      let order = test.order(image, .none)
      async let receipt = test.engine.backUp(order, control: control)
      for _ in 0..<6000 where control.checkpoints == 0 { try await Task.sleep(for: .milliseconds(10)) }
      // A writer that takes no notice of image locks.
      let file = try FileHandle(forUpdating: URL(fileURLWithPath: image.source.place))
      try file.write(contentsOf: Data([1, 2, 3]))
      try file.close()
      control.resume()
      do {
        _ = try await receipt
        Issue.record("the backup succeeded")
      } catch let error as DomainError {
        #expect(error.code == .imageInUse)
      }
      #expect(test.storedFiles == [])
    }
  }

  @Test func imageThatAnotherProcessWritesIsRefusedAndUntouched() async throws {
    try await withSource { test, image in
      let path = image.source.place
      let made = try await test.backUp(image)
      let stored = test.storedFiles
      let before = try SampleImage.bytes(path)
      let holder = Process()
      holder.executableURL = URL(fileURLWithPath: "/usr/bin/env")
      // Holds the image open read-write until its input ends.
      holder.arguments = ["qemu-io", "-f", "raw", path]
      let input = Pipe()
      holder.standardInput = input
      holder.standardOutput = Pipe()
      try holder.run()
      defer {
        try? input.fileHandleForWriting.close()
        holder.waitUntilExit()
      }
      let location = ImageLocation(source: .file(path: path), format: .raw)
      for _ in 0..<200 {
        if try await test.engine.inspect(location).locks.contains(where: { $0.permission == "write" && $0.held }) {
          break
        }
        try await Task.sleep(for: .milliseconds(20))
      }
      let error = await #expect(throws: DomainError.self) { try await test.backUp(image) }
      #expect(error?.code == .imageLocked)
      #expect(error?.detail.contains("write") == true, "\(error as Any)")
      #expect(test.storedFiles == stored)
      let refusal = await #expect(throws: DomainError.self) {
        try await test.engine.restore(
          RestoreOrder(backup: made.place, target: .image(location)), control: RecordingJobControl())
      }
      #expect(refusal?.code == .imageLocked)
      #expect(try SampleImage.bytes(path) == before)
      #expect(try await test.engine.inspect(location).locks.contains { $0.permission == "write" && $0.held })
    }
  }
}
