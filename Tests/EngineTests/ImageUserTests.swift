import Engine
import Foundation
import Model
import ModelTesting
import Testing

/// Who excludes whom at one image: each that has it, against each that wants it.
struct ImageUserTests {
  enum Holder: CaseIterable {
    case attached, exportedAttached, exportedAtRest, backup, check, restore
  }

  enum Newcomer: CaseIterable {
    case attach, look, exportAtRest, backup, check, restore, detach
  }

  /// Nil where it is let in.
  static func refusal(_ holder: Holder, _ newcomer: Newcomer) -> ProblemCode? {
    switch (holder, newcomer) {
    case (.exportedAttached, .detach): .imageInUse
    case (_, .detach): nil
    case (.attached, .look), (.exportedAttached, .look): nil
    // It would open the files by itself, which are locked.
    case (.attached, .exportAtRest), (.exportedAttached, .exportAtRest): .imageLocked
    case (.attached, _), (.exportedAttached, _): .imageInUse
    case (.exportedAtRest, .attach), (.exportedAtRest, .restore): .imageLocked
    case (.backup, .attach), (.backup, .restore), (.check, .attach), (.check, .restore): .imageLocked
    case (.exportedAtRest, _), (.backup, _), (.check, _): nil
    case (.restore, _): .imageLocked
    }
  }

  private struct Bench {
    let test: TestEngine
    let location: ImageLocation
    let record: ImageRecord
    let stored: StoredBackupLocation
    let image = ImageID()

    func export(_ source: ExportOrder.Source, isReadOnly: Bool, _ name: ResourceName) async throws -> ExportID {
      let order = test.order(name, source, isReadOnly: isReadOnly)
      try await test.engine.export(order)
      return order.export
    }

    func job(_ newcomer: Newcomer, _ control: RecordingJobControl = RecordingJobControl()) async throws {
      let engine = test.engine
      switch newcomer {
      case .backup: _ = try await test.backUp(record, control: control)
      case .check:
        _ = try await engine.check(CheckOrder(image: location, repairsLeaks: false), control: control)
      default:
        _ = try await engine.restore(RestoreOrder(backup: stored, target: .image(location)), control: control)
      }
    }

    func come(_ newcomer: Newcomer) async throws {
      switch newcomer {
      case .attach:
        let other = ImageID()
        try await test.attach(location, as: other)
        try await test.engine.detach(other)
      case .look: _ = try await test.engine.extents(of: location, offset: 0, length: nil, limit: 1)
      case .exportAtRest:
        try await test.engine.withdraw(try await export(.image(location), isReadOnly: true, "new"), .hard)
      case .detach: try await test.engine.detach(image)
      case .backup, .check, .restore: try await job(newcomer)
      }
    }
  }

  @Test(arguments: Holder.allCases) func eachNewcomerIsLetInOrRefused(_ holder: Holder) async throws {
    try await withEngine { test in
      let location = try test.makeQcow2()
      let record = test.record("vm", location.source.place, .qcow2)
      let bench = Bench(
        test: test, location: location, record: record, stored: try await test.backUp(record).place)
      let control = RecordingJobControl()
      var work: Task<Void, any Error>?
      var export: ExportID?
      switch holder {
      case .attached: try await test.attach(location, as: bench.image)
      case .exportedAttached:
        try await test.attach(location, as: bench.image)
        export = try await bench.export(.attachedImage(bench.image), isReadOnly: false, "disk")
      case .exportedAtRest: export = try await bench.export(.image(location), isReadOnly: true, "disk")
      case .backup, .check, .restore:
        control.pause()
        let kind: Newcomer = holder == .backup ? .backup : holder == .check ? .check : .restore
        work = Task { try await bench.job(kind, control) }
        try await eventually("the job is at work") { control.checkpoints > 0 }
      }
      for newcomer in Newcomer.allCases {
        let got = await code { try await bench.come(newcomer) }
        #expect(got == Self.refusal(holder, newcomer), "\(newcomer) while \(holder)")
      }
      control.resume()
      try await work?.value
      if let export { try await test.engine.withdraw(export, .hard) }
      // Whoever had it has left nothing behind: it is to be had alone.
      try await test.engine.detach(bench.image)
      try await bench.come(.restore)
    }
  }

  @Test func needsExcludeEachOtherBothWays() {
    for need in ImageNeed.allCases {
      for other in ImageNeed.allCases { #expect(need.excludes(other) == other.excludes(need)) }
      #expect(need.excludes(.alone))
      #expect(need.isAtRest == (need == .rest || need == .alone))
    }
  }
}
