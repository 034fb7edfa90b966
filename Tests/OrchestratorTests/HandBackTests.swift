import Foundation
import Model
import ModelTesting
import Testing

@testable import Orchestrator

/// What is put into images to track their changes: it is listed, and taken out again.
@Suite struct HandBackTests {
  private static let path = "/images/vm.qcow2"
  private static let tracker = TrackerName("second-tool") ?? .standard(of: RepositoryID())

  /// A qcow2 image that carries a tracker, and another bitmap.
  private static func bench() async throws -> (ServiceBench, TrackerBitmapName) {
    let bench = try await ServiceBench()
    let name = TrackerBitmapName(tracker: tracker, checkpoint: ULID())
    bench.engine.script { script in
      script.inspect = { _ in
        var inspection = ImageInspection(format: .qcow2, virtualSize: 1 << 20, storedSize: 1 << 20)
        inspection.bitmaps = [name.text, "theirs", "cobweb.odd"].map {
          ImageInspection.Bitmap(name: $0, granularity: 65536, enabled: true, inconsistent: false)
        }
        return inspection
      }
      script.removeTracking = { _, _ in TrackingRemoval(removed: [name.text]) }
    }
    _ = try await bench.service.registerImage(
      ImageDraft(name: "vm1", source: .file(path: path), format: .qcow2)
    ).done()
    return (bench, name)
  }

  private static func removals(_ bench: ServiceBench) -> [TrackerName?] {
    bench.engine.orders.compactMap {
      if case .removeTracking(_, let tracker) = $0 { .some(tracker) } else { nil }
    }
  }

  @Test func unregisteringTakesAllOfOursOut() async throws {
    let (bench, name) = try await Self.bench()
    let plan = try await bench.service.unregisterImage(.name("vm1"), ChangeConditions(dryRun: true)).planned()
    #expect(plan.steps.contains { $0.contains(Self.path) } && Self.removals(bench) == [])
    let gone = try await bench.service.unregisterImage(.name("vm1")).done()
    #expect(gone.removal.removed == [name.text] && gone.removal.failure == nil)
    #expect(Self.removals(bench) == [nil])
  }

  @Test func whatStaysIsToldAndTheImageIsForgotten() async throws {
    let (bench, name) = try await Self.bench()
    bench.engine.script {
      $0.removeTracking = { _, _ in
        TrackingRemoval(left: [name.text], failure: ProblemDetails(DomainError(.imageLocked, "locked")))
      }
    }
    let line = "qemu-img bitmap -f qcow2 --remove '\(Self.path)' '\(name.text)'"
    let refusal = await expectRefusal(.imageLocked) {
      try await bench.service.deleteTracker(Self.tracker.text, of: .name("vm1"))
    }
    #expect(refusal?.detail.contains(name.text) == true && refusal?.remedy?.contains(line) == true)
    let gone = try await bench.service.unregisterImage(.name("vm1")).done()
    #expect(gone.removal.left == [name.text] && gone.removal.commands(path: Self.path) == [line])
    await expectRefusal(.notFound) { try bench.service.image(.name("vm1")) }
    #expect(gone.removal.commands(path: "/a'b")[0].contains(#"'/a'\''b'"#), "for a shell")
  }

  /// A raw image, or one on another server, carries nothing.
  @Test func whatCarriesNoBitmapsIsLeftAlone() async throws {
    let bench = try await ServiceBench()
    try await bench.image("raw")
    #expect(try await bench.service.unregisterImage(.name("raw")).done().removal == TrackingRemoval())
  }

  @Test func trackersAreThoseThatTheImageCarries() async throws {
    let (bench, name) = try await Self.bench()
    let trackers = try await bench.service.trackers(of: .name("vm1"))
    #expect(
      trackers == [
        TrackerView(
          name: Self.tracker, checkpoint: name.checkpoint, lastBackup: nil, bitmap: name.text, repository: nil,
          state: .recording, owner: .backup)
      ])
    await expectRefusal(.notFound) { try await bench.service.deleteTracker("theirs", of: .name("vm1")) }
    let plan = try await bench.service.deleteTracker(
      Self.tracker.text, of: .name("vm1"), ChangeConditions(dryRun: true)
    ).planned()
    #expect(plan.steps[0].contains(name.text) && Self.removals(bench) == [])
    _ = try await bench.service.deleteTracker(Self.tracker.text, of: .name("vm1")).done()
    #expect(Self.removals(bench) == [Self.tracker])
  }
}
