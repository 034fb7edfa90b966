import Foundation
import Model
import ModelTesting
import Repositories
import Testing

@testable import Engine

/// The backup that a bitmap counts from is deleted: the bitmap counts from its parent.
@Suite struct CheckpointReturnTests {
  /// A full of a qcow2 image, and increments on it with changes in between.
  private struct Story {
    let test: TestEngine
    let location: ImageLocation
    let image: ImageRecord
    var made: [(place: StoredBackupLocation, plan: BackupPlan, receipt: BackupReceipt)] = []

    init(_ test: TestEngine) throws {
      self.test = test
      location = try test.makeQcow2(size: "8M")
      image = test.record("vm", location.source.place, .qcow2)
    }

    func write(_ commands: String...) throws {
      try Tool.run("qemu-io", ["-f", "qcow2"] + commands.flatMap { ["-c", $0] } + [location.source.place])
    }

    mutating func backUp(_ kind: RequestedBackupKind) async throws {
      let order = test.order(image, .zstd, kind: kind)
      let beginning = try await test.engine.begin(GroupOrder([order]), control: RecordingJobControl())
      guard case .begun(let plan) = beginning[0] else { throw Tool.Failure(description: "\(beginning)") }
      let receipt = try await test.engine.store(order.backup, control: RecordingJobControl())
      let place = StoredBackupLocation(
        repository: test.repository, image: image.id, chain: plan.chain, sequence: plan.sequence, backup: order.backup)
      made.append((place, plan, receipt))
    }

    func giveBack(_ index: Int, to parent: Int, isRehearsal: Bool = false) async -> CheckpointReturn.Outcome {
      await test.engine.returnCheckpoint(
        CheckpointReturn(
          backup: made[index].place, parent: made[parent].place, image: location,
          tracker: .standard(of: test.repository.id), isRehearsal: isRehearsal))
    }

    mutating func deleteNewest() async throws {
      try await test.engine.delete(made.removeLast().place, control: RecordingJobControl())
    }

    /// The newest backup holds what a copy of everything holds.
    func expectNothingMissed(_ what: Comment) async throws {
      let copy = try await test.backUp(test.order(image, .zstd, kind: .copy))
      #expect(copy.receipt.merkleRoot == made.last?.receipt.merkleRoot, what)
      try Tool.judge("check", "-q", "-f", "qcow2", location.source.place)
    }
  }

  @Test(.eachToolVersion) func nextBackupGoesByTheBitmapAndMissesNothing() async throws {
    try await withEngine { test in
      var story = try Story(test)
      try await story.backUp(.full)
      try story.write("write -P 1 1M 64k")
      try await story.backUp(.incremental)
      try story.write("write -P 2 3M 64k")
      try await story.backUp(.incremental)
      try story.write("write -P 3 5M 64k")
      #expect(await story.giveBack(1, to: 0) == .unconcerned, "it counts from another")
      #expect(await story.giveBack(2, to: 1, isRehearsal: true) == .returned)
      #expect(await story.giveBack(2, to: 1) == .returned)
      // The deletion hasn't happened yet, and needn't: what the bitmap says is right already.
      try await story.backUp(.incremental)
      let between = try #require(story.made.last)
      #expect(between.plan.fallback == nil && between.plan.parent?.backup == story.made[1].place.backup)
      try await story.expectNothingMissed("before the deletion")
      #expect(await story.giveBack(3, to: 1) == .returned)
      try await story.deleteNewest()
      try await story.deleteNewest()
      try story.write("write -P 4 7M 4k")
      try await story.backUp(.incremental)
      let after = try #require(story.made.last)
      #expect(after.plan.fallback == nil && after.plan.parent?.backup == story.made[1].place.backup)
      // What both that are gone had stored, and what has changed since.
      // A few granules that are marked may lie in a grain that differs.
      #expect((2 * 65536 + 4096...3 * 65536).contains(after.receipt.dirtyBytes))
      try await story.expectNothingMissed("after it")
    }
  }

  @Test func differentialGivesBackToItsFull() async throws {
    try await withEngine { test in
      var story = try Story(test)
      try await story.backUp(.full)
      try story.write("write -P 1 1M 64k")
      try await story.backUp(.incremental)
      try story.write("write -P 2 3M 64k")
      try await story.backUp(.differential)
      #expect(await story.giveBack(2, to: 0) == .returned)
      try await story.deleteNewest()
      try await story.backUp(.incremental)
      let after = try #require(story.made.last)
      #expect(after.plan.fallback == nil && after.plan.parent?.backup == story.made[0].place.backup)
      #expect(after.receipt.dirtyBytes == 2 * 65536)
      try await story.expectNothingMissed("a differential")
    }
  }

  /// Where it can't be, that is told, the image is as it was, and the next backup compares.
  @Test func whatCannotBeIsTold() async throws {
    try await withEngine { test in
      var story = try Story(test)
      try await story.backUp(.full)
      try story.write("write -P 1 1M 64k")
      try await story.backUp(.incremental)
      let path = story.location.source.place
      let before = try Data(contentsOf: URL(fileURLWithPath: path))
      let reader = try await PeerProcess("qemu-io", ["-r", "-f", "qcow2", path])
      try await eventually("the reader holds the image") {
        try await test.engine.inspect(story.location).locks.contains { $0.held }
      }
      guard case .impossible(let why) = await story.giveBack(1, to: 0) else {
        return #expect(Bool(false), "a reader has the image")
      }
      #expect(why.contains(path))
      reader.stop()
      #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == before)
      try await story.deleteNewest()
      try await story.backUp(.incremental)
      #expect(story.made.last?.plan.fallback == .init(to: .hash, reason: .parentMissing))
      try await story.expectNothingMissed("by hash")
    }
  }
}
