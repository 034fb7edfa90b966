import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

/// Writing to what registered overlays stand on.
@Suite struct OverlayTests {
  private static let base = FileIdentity.file(device: 1, inode: 7)

  /// A raw image "vm1", the qcow2 image "top" on it, and "beside", which stands on another file.
  private func bench(
    catalog: InMemoryCatalog = InMemoryCatalog(), _ adjust: (inout ServiceLimits) -> Void = { _ in }
  ) async throws -> ServiceBench {
    let engine = ScriptedEngine()
    engine.script { script in
      script.identity = { $0.place == "/images/vm1" ? Self.base : nil }
      script.inspect = { location in
        let files: [FileIdentity] = location.source.place == "/images/top" ? [Self.base] : [.file(device: 2, inode: 7)]
        var inspection = ImageInspection(format: location.format, virtualSize: 1 << 20, storedSize: 0)
        if location.format == .qcow2 {
          inspection.backingChain = [.init(path: "/images/link", format: .raw, virtualSize: 1 << 20, files: files)]
        }
        return inspection
      }
    }
    let bench = try await ServiceBench(catalog: catalog, engine: engine, adjust)
    try await bench.image("vm1")
    for name in ["top", "beside"] as [ResourceName] {
      let draft = ImageDraft(name: name, source: .file(path: "/images/\(name)"), format: .qcow2)
      _ = try await bench.service.registerImage(draft).done()
    }
    return bench
  }

  private func draft(confirm: String? = nil, isReadOnly: Bool = false) -> ExportDraft {
    var draft = ExportDraft.sample(isReadOnly: isReadOnly)
    draft.confirm = confirm
    return draft
  }

  @Test func attachingNeedsTheImagesName() async throws {
    let bench = try await bench()
    let service = bench.service
    for confirm in [nil, "", "top"] as [String?] {
      let refusal = await expectRefusal(.confirmationRequired) {
        try await service.attachImage(.name("vm1"), confirm: confirm)
      }
      #expect(refusal?.detail.contains("'top'") == true && refusal?.detail.contains("'beside'") == false)
    }
    let plan = try await service.attachImage(.name("vm1"), ChangeConditions(dryRun: true)).planned()
    #expect(plan.warnings.contains { $0.contains("'top'") })
    #expect(try service.jobs(JobFilter(), PageRequest()).items.isEmpty)
    // The overlay's own writes change nothing else.
    try await bench.attach("top")
    let job = try await bench.end(of: service.attachImage(.name("vm1"), confirm: "vm1").done())
    #expect(job.state == .succeeded)
  }

  @Test func onlyAnExportThatAttachesNeedsIt() async throws {
    let bench = try await bench()
    let service = bench.service
    for confirm in [nil, "top"] as [String?] {
      let refusal = await expectRefusal(.confirmationRequired) {
        try await service.createExport(draft(confirm: confirm))
      }
      #expect(refusal?.faults.first?.part == .field(.confirm))
    }
    try bench.expectInLine()
    #expect(bench.engine.attachedImages.isEmpty)
    let plan = try await service.createExport(draft(), ChangeConditions(dryRun: true)).planned()
    #expect(plan.warnings.contains { $0.contains("'top'") })
    _ = try await service.createExport(draft(isReadOnly: true)).done()
    _ = try await service.deleteExport(.name("disk0"), .safe)
    _ = try await service.createExport(draft(confirm: "vm1")).done()
    // It is attached by now.
    try await bench.export("second", isReadOnly: false)
    try await bench.attach("vm1")
  }

  @Test func planOfARestoreWarns() async throws {
    let bench = try await bench()
    try await bench.repository()
    let backup = try await bench.end(of: bench.backUp("vm1")).backups[0]
    let plan = try await bench.service.restoreBackup(
      backup, to: .image(.name("vm1"), confirm: nil), ChangeConditions(dryRun: true)
    ).planned()
    #expect(plan.warnings.contains { $0.contains("'top'") && !$0.contains("'beside'") })
  }

  @Test func startDoesntAskAgain() async throws {
    let stored = InMemoryCatalog()
    let first = try await bench(catalog: stored)
    _ = try await first.service.createExport(draft(confirm: "vm1")).done()
    await first.service.stop(grace: .seconds(1))
    let (again, script) = (ScriptedEngine(), first.engine.currentScript)
    again.script { $0 = script }
    let second = try await ServiceBench(catalog: stored, engine: again)
    try await eventually("it is served") { second.engine.servedExports.count == 1 }
    try second.expectInLine()
  }

  /// A silent overlay holds up the attaching for a while only, is looked at once, and doesn't hide the others.
  @Test(.timeLimit(.minutes(1))) func silentOverlayIsAWarning() async throws {
    let bench = try await bench { limits in
      limits.overlayTimeout = .seconds(1)
      limits.overlayTurn = .milliseconds(10)
      limits.concurrentLooks = 1
    }
    let hung = ImageDraft(name: "hung", source: .file(path: "/far/hung"), format: .qcow2)
    _ = try await bench.service.registerImage(hung).done()
    _ = try await bench.service.unregisterImage(.name("top"))
    let gate = Gate()
    bench.engine.script { script in
      script.silence(at: gate) { if case .inspect(let image) = $0 { image.source.place == "/far/hung" } else { false } }
    }
    for _ in 0..<2 {
      let plan = try await bench.service.attachImage(.name("vm1"), ChangeConditions(dryRun: true)).planned()
      #expect(plan.warnings.contains { $0.contains("'hung'") && !$0.contains("'beside'") })
    }
    #expect(gate.arrivals == 1)
    try await bench.attach("vm1")
    gate.open()
  }

  /// A storage that doesn't even tell which file the image is.
  @Test(.timeLimit(.minutes(1))) func silentImageDoesntHoldUpTheRequest() async throws {
    let bench = try await bench { $0.overlayTimeout = .milliseconds(50) }
    let gate = Gate()
    bench.engine.script { script in
      script.silence(at: gate) { if case .identities = $0 { true } else { false } }
    }
    let plan = try await bench.service.attachImage(.name("vm1"), ChangeConditions(dryRun: true)).planned()
    #expect(plan.warnings.contains { $0.contains("'top'") && $0.contains("can't be told") })
    gate.open()
  }
}
