import Engine
import Foundation
import Model
import ModelTesting
import Testing

/// Images that are backed up at one moment.
struct GroupTests {
  private struct Bench {
    let test: TestEngine
    let locations: [ImageLocation]
    var orders: [BackupOrder]

    init(_ test: TestEngine, count: Int = 3) throws {
      self.test = test
      locations = try (0..<count).map { try test.makeQcow2("vm\($0)") }
      orders = locations.enumerated().map { index, location in
        test.order(test.record(ResourceName("vm\(index)")!, location.source.place, .qcow2))
      }
    }

    func begin(continues: Bool = false, _ control: RecordingJobControl = RecordingJobControl()) async throws
      -> [BackupBeginning]
    {
      try await test.engine.begin(GroupOrder(orders, continuesAfterFailure: continues), control: control)
    }

    var stored: Set<BackupID> {
      get async throws { Set(try await test.engine.scan(test.repository).backups.map(\.id)) }
    }

    /// Nothing is open, and nothing was left in the repository.
    func expectNothingHeld(_ what: Comment) async throws {
      for location in locations {
        let image = ImageID()
        #expect(await code { try await test.attach(location, as: image) } == nil, what)
        try await test.engine.detach(image)
      }
      let scan = try await test.engine.scan(test.repository)
      #expect(scan.findings == [] && scan.backups == [], what)
      #expect(
        try FileManager.default.subpathsOfDirectory(atPath: test.repositoryPath).allSatisfy { !$0.contains(".part") })
    }
  }

  /// Until each is stored, nobody gets in between: all have the bytes, and the time, of the moment.
  @Test func allImagesAreOfOneMoment() async throws {
    try await withEngine { test in
      let bench = try Bench(test)
      let beginnings = try await bench.begin()
      let moments = Set(beginnings.compactMap { if case .begun(let plan) = $0 { plan.pointInTime } else { nil } })
      #expect(beginnings.count == 3 && moments.count == 1)
      for (index, order) in bench.orders.enumerated() {
        for location in bench.locations[index...] {
          #expect(await code { try await test.attach(location, as: ImageID()) } == .imageLocked)
          #expect(throws: (any Error).self) {
            try Tool.run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", location.source.place)
          }
        }
        let receipt = try await test.engine.store(order.backup, control: RecordingJobControl())
        #expect(moments.contains(receipt.pointInTime))
        // That one is let go.
        try Tool.run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", bench.locations[index].source.place)
      }
      #expect(try await bench.stored == Set(bench.orders.map(\.backup)))
    }
  }

  @Test(arguments: 0..<3) func oneThatCannotBeHeldFailsTheOthers(_ taken: Int) async throws {
    try await withEngine { test in
      let bench = try Bench(test)
      let holder = ImageID()
      try await test.attach(bench.locations[taken], as: holder)
      let codes = try await bench.begin().map {
        if case .failed(let problem) = $0 { problem.code } else { nil as ProblemCode? }
      }
      for (index, code) in codes.enumerated() {
        #expect(code == (index == taken ? .imageInUse : .pointInTimeLost), "image \(index)")
      }
      try await test.engine.detach(holder)
      try await bench.expectNothingHeld("image \(taken) was taken")
    }
  }

  @Test func othersGoOnWhereTheRequestSaysSo() async throws {
    try await withEngine { test in
      let bench = try Bench(test)
      let holder = ImageID()
      try await test.attach(bench.locations[1], as: holder)
      let beginnings = try await bench.begin(continues: true)
      guard case .failed(let problem) = beginnings[1] else { throw Tool.Failure(description: "it was begun") }
      #expect(problem.code == .imageInUse)
      for index in [0, 2] {
        _ = try await test.engine.store(bench.orders[index].backup, control: RecordingJobControl())
      }
      #expect(try await bench.stored == [bench.orders[0].backup, bench.orders[2].backup])
      try await test.engine.detach(holder)
    }
  }

  @Test func abandonedImagesLeaveNothing() async throws {
    try await withEngine { test in
      let bench = try Bench(test)
      _ = try await bench.begin()
      await test.engine.abandon(bench.orders.map(\.backup))
      try await bench.expectNothingHeld("abandoned")
      // Once more does nothing.
      await test.engine.abandon(bench.orders.map(\.backup))
    }
  }

  @Test(arguments: 1...2) func cancellationBeforeTheMomentLeavesNothing(_ checkpoint: Int) async throws {
    try await withEngine { test in
      let bench = try Bench(test)
      await #expect(throws: CancellationError.self) {
        try await bench.begin(RecordingJobControl(cancelAtCheckpoint: checkpoint))
      }
      try await bench.expectNothingHeld("cancelled at \(checkpoint)")
    }
  }

  /// A member that is stored tells of the others, also where these aren't.
  @Test func eachManifestNamesTheImagesOfTheGroup() async throws {
    try await withEngine { test in
      var bench = try Bench(test)
      let images = bench.orders.map(\.image.id)
      for index in bench.orders.indices { bench.orders[index].groupImages = images }
      _ = try await bench.begin()
      _ = try await test.engine.store(bench.orders[1].backup, control: RecordingJobControl())
      await test.engine.abandon(bench.orders.map(\.backup))
      #expect(try await test.engine.scan(test.repository).backups.map(\.groupImages) == [images])
    }
  }

  /// What is begun belongs to a job that lives: recovery leaves it alone.
  @Test func recoveryLeavesWhatIsBegun() async throws {
    try await withEngine { test in
      let bench = try Bench(test, count: 2)
      _ = try await bench.begin()
      _ = try await test.engine.recover(test.repository, liveJobs: [])
      for order in bench.orders { _ = try await test.engine.store(order.backup, control: RecordingJobControl()) }
      #expect(try await bench.stored == Set(bench.orders.map(\.backup)))
    }
  }
}
