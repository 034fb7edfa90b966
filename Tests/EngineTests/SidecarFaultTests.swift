import BlockTesting
import Engine
import EventLoops
import Foundation
import Glibc
import Model
import ModelTesting
import Repositories
import Testing

/// The storage of the server's state fails at each call in turn, or ends there: backups and guests go on, and nothing that
/// changed is missed.
struct SidecarFaultTests {
  /// More calls than the story makes.
  private static let callLimit = 200
  private static let byteCount: UInt64 = 1 << 20

  /// An image and its backups, by an engine whose state is stored as planned.
  private struct Story {
    let test: TestEngine
    let plan: FaultPlan
    let image: ImageRecord
    /// Of another image, which is restored over this one to change it.
    let other: TestEngine.Made
    var made: [(place: StoredBackupLocation, plan: BackupPlan, receipt: BackupReceipt)] = []

    init(_ test: TestEngine, _ plan: FaultPlan, _ other: TestEngine.Made) throws {
      let path = test.images + "/vm-\(ULID()).raw"
      try SampleImage.raw(at: path, byteCount: byteCount, seed: 3)
      (self.test, self.plan, self.other) = (test, plan, other)
      image = test.record("vm", path, .raw)
    }

    /// A full backup, a restore over the image, an increment, and a restore of the full over it again.
    mutating func run() async throws {
      let faulty = try await again { [plan] in FaultyFiles($0, plan: plan) }
      try await backUp(.full, by: faulty)
      try await restore(other.place, by: faulty)
      try await backUp(.incremental, by: faulty)
      #expect(made[1].receipt.merkleRoot == other.receipt.merkleRoot, "call \(plan.calls)")
      try await restore(made[0].place, by: faulty)
      await faulty.engine.shutDown()
    }

    /// What an engine finds that comes after.
    mutating func check(_ what: Comment) async throws {
      let fresh = try await again { LocalFolderFiles($0) }
      try await backUp(.incremental, by: fresh)
      #expect(made[2].receipt.merkleRoot == made[0].receipt.merkleRoot, what)
      #expect(try await fresh.verify(made[2].place).findings == [], what)
      await fresh.engine.shutDown()
      try FileManager.default.removeItem(atPath: image.source.place)
    }

    private func again(_ open: @escaping @Sendable (Folder) -> any FolderFiles) async throws -> TestEngine {
      try await TestEngine(
        root: test.root, writer: test.writer, repository: test.repository, openSidecars: open)
    }

    private mutating func backUp(_ kind: RequestedBackupKind, by engine: TestEngine) async throws {
      let order = test.order(image, kind: kind)
      let beginning = try await engine.engine.begin(GroupOrder([order]), control: RecordingJobControl())
      guard case .begun(let plan) = beginning[0] else { throw Tool.Failure(description: "\(beginning)") }
      #expect(plan.kind == (kind == .full ? .full : .incremental), "\(plan.reason)")
      let receipt = try await engine.engine.store(order.backup, control: RecordingJobControl())
      let place = StoredBackupLocation(
        repository: test.repository, image: image.id, chain: plan.chain, sequence: plan.sequence, backup: order.backup)
      made.append((place, plan, receipt))
    }

    private func restore(_ place: StoredBackupLocation, by engine: TestEngine) async throws {
      let location = ImageLocation(source: image.source, format: .raw)
      _ = try await engine.engine.restore(
        RestoreOrder(backup: place, target: .image(location)), control: RecordingJobControl())
    }
  }

  private func withOther(_ body: (TestEngine, TestEngine.Made) async throws -> Void) async throws {
    try await withEngine { test in
      let path = test.images + "/other.raw"
      try SampleImage.raw(at: path, byteCount: Self.byteCount, seed: 4)
      try await body(test, try await test.backUp(test.record("other", path, .raw)))
    }
  }

  @Test(arguments: FaultTests.cases) func aFaultCostsAComparisonAtMost(_ fault: FaultTests.Case) async throws {
    try await withOther { test, other in
      var compared = 0
      for call in 1...Self.callLimit {
        var story = try Story(test, FaultPlan(.fail(call: call, code: fault.code, isDone: fault.isDone)), other)
        try await story.run()
        try await story.check("call \(call), fault \(fault)")
        let fallbacks = story.made.compactMap(\.plan.fallback)
        compared += fallbacks.isEmpty ? 0 : 1
        guard story.plan.wasHit else {
          #expect(fallbacks == [] && call > 20 && compared > 3, "\(call) calls, \(compared) comparisons")
          break
        }
        #expect(call < Self.callLimit)
      }
    }
  }

  /// `isLossy`: power goes, and whatever wasn't made durable is taken back; else the process is killed.
  @Test(arguments: [false, true]) func aCutAnywhereCostsAComparisonAtMost(_ isLossy: Bool) async throws {
    try await withOther { test, other in
      var compared = 0
      for change in 1...Self.callLimit {
        var story = try Story(test, FaultPlan(.cut(change: change)), other)
        try await story.run()
        if isLossy { story.plan.losePending() }
        try await story.check("cut at \(change)")
        compared += story.made[2].plan.fallback == nil ? 0 : 1
        guard story.plan.wasHit else {
          #expect(change > 15 && compared > 5, "\(change) changes, \(compared) comparisons")
          break
        }
        #expect(change < Self.callLimit)
      }
    }
  }
}
