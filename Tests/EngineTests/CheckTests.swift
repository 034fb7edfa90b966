import BlockTesting
import Engine
import Foundation
import Model
import ModelTesting
import Testing

/// Checks of images, with qemu-img check as the judge.
struct CheckTests {
  private func check(
    _ test: TestEngine, _ location: ImageLocation, repairsLeaks: Bool = false,
    control: RecordingJobControl = RecordingJobControl()
  ) async throws -> CheckReport {
    try await test.engine.check(CheckOrder(image: location, repairsLeaks: repairsLeaks), control: control)
  }

  private func bigEndian(_ bytes: Data, at offset: Int) -> UInt64 {
    bytes[offset..<offset + 8].reduce(0) { $0 << 8 | UInt64($1) }
  }

  /// Counts clusters behind the file's end as used, though nothing refers to them.
  private func leak(_ count: Int, in path: String) throws {
    let bytes = try SampleImage.bytes(path)
    let block = bigEndian(bytes, at: Int(bigEndian(bytes, at: 48)))
    let first = (bytes.count + 65535) / 65536
    let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
    defer { try? file.close() }
    try file.truncate(atOffset: UInt64(first + count) * 65536)
    for cluster in first..<first + count {
      try file.seek(toOffset: block + UInt64(cluster) * 2)
      try file.write(contentsOf: Data([0, 1]))
    }
  }

  /// Corruptions and leaks as qemu-img counts them, the most that any version finds.
  private func judge(_ path: String) throws -> [Int] {
    try ToolVersion.available.map { try judge(path, $0) }.reduce([0, 0]) { [max($0[0], $1[0]), max($0[1], $1[1])] }
  }

  private func judge(_ path: String, _ version: ToolVersion) throws -> [Int] {
    let text = try Tool.run(
      "qemu-img", ["check", "-f", "qcow2", "--output=json", path], expecting: [0, 2, 3], version: version)
    // Beside it stands what it says to a person.
    let start = try #require(text.firstIndex(of: "{"))
    let end = try #require(text.lastIndex(of: "}"))
    let object = try JSONSerialization.jsonObject(with: Data(text[start...end].utf8)) as? [String: Any]
    return ["corruptions", "leaks"].map { object?[$0] as? Int ?? 0 }
  }

  @Test func soundImagesHaveNoFindings() async throws {
    try await withEngine { test in
      let location = try test.makeQcow2()
      let control = RecordingJobControl()
      let report = try await check(test, location, control: control)
      let size = try SampleImage.byteCount(location.source.place)
      #expect(
        report
          == CheckReport(findings: [], errorCount: 0, leakCount: 0, repairedLeakCount: 0, checkedBytes: size))
      #expect(control.reports.last == .init(done: size, total: size))
      #expect(zip(control.reports, control.reports.dropFirst()).allSatisfy { $0.done <= $1.done })
      let raw = ImageLocation(source: .file(path: test.images + "/vm.raw"), format: .raw)
      try SampleImage.raw(at: raw.source.place, byteCount: 1 << 20, seed: 1)
      #expect(try await check(test, raw).findings == [])
      #expect(await code { _ = try await check(test, raw, repairsLeaks: true) } == nil)
      let absent = ImageLocation(source: .file(path: test.images + "/none.raw"), format: .raw)
      #expect(await code { _ = try await check(test, absent) } == .sourceNotFound)
    }
  }

  @Test(arguments: [1, 7, 150])
  func leaksAreCountedAndGivenBack(_ count: Int) async throws {
    try await withEngine { test in
      let location = try test.makeQcow2()
      let path = location.source.place
      let before = try await test.backUp(test.record("vm", path, .qcow2)).receipt.merkleRoot
      try leak(count, in: path)
      #expect(try judge(path) == [0, count])
      let found = try await check(test, location)
      #expect(found.errorCount == 0 && found.leakCount == count && found.repairedLeakCount == 0)
      #expect(found.findings.count == min(count, CheckReport.maximumFindingCount))
      #expect(found.findings.allSatisfy { $0.contains(path) && $0.contains("leak") && $0.contains("cluster at") })
      #expect(try judge(path) == [0, count])
      let repaired = try await check(test, location, repairsLeaks: true)
      #expect(repaired.repairedLeakCount == count && repaired.leakCount == 0 && repaired.findings == [])
      #expect(try judge(path) == [0, 0])
      #expect(try await test.backUp(test.record("vm", path, .qcow2)).receipt.merkleRoot == before)
    }
  }

  @Test func errorsComeFirstAndKeepLeaksFromBeingRepaired() async throws {
    try await withEngine { test in
      let location = try test.makeQcow2()
      let path = location.source.place
      try leak(120, in: path)
      // The data cluster that the first L2 entry names is counted as unused.
      let bytes = try SampleImage.bytes(path)
      let table = Int(bigEndian(bytes, at: Int(bigEndian(bytes, at: 40))) & 0x00FF_FFFF_FFFF_FE00)
      let entry = try #require((0..<48).map { bigEndian(bytes, at: table + $0 * 8) }.first { $0 >> 62 == 2 })
      let cluster = (entry & 0x00FF_FFFF_FFFF_FE00) / 65536
      let block = bigEndian(bytes, at: Int(bigEndian(bytes, at: 48)))
      let file = try FileHandle(forUpdating: URL(fileURLWithPath: path))
      try file.seek(toOffset: block + cluster * 2)
      try file.write(contentsOf: Data([0, 0]))
      try file.close()
      for repairsLeaks in [false, true] {
        let report = try await check(test, location, repairsLeaks: repairsLeaks)
        #expect(report.errorCount > 0 && report.repairedLeakCount == 0, "\(report)")
        #expect(report.findings.first?.contains("error") == true)
        #expect(report.findings.count == CheckReport.maximumFindingCount)
      }
      #expect(try judge(path)[0] > 0)
    }
  }

  @Test func aRepairCanBeCancelledAtAnyCheckpoint() async throws {
    try await withEngine { test in
      let location = try test.makeQcow2()
      let path = location.source.place
      let before = try await test.backUp(test.record("vm", path, .qcow2)).receipt.merkleRoot
      let counting = RecordingJobControl()
      _ = try await check(test, location, control: counting)
      var number = counting.checkpoints
      var isCancelled = true
      while isCancelled {
        number += 1
        try leak(7, in: path)
        do {
          let control = RecordingJobControl(cancelAtCheckpoint: number)
          let report = try await check(test, location, repairsLeaks: true, control: control)
          #expect(report.leakCount == 0 && report.repairedLeakCount >= 7)
          isCancelled = false
        } catch is CancellationError {}
        #expect(try judge(path)[0] == 0)
      }
      #expect(number > counting.checkpoints + 3, "each of the repair's walks can be ended")
      #expect(try judge(path) == [0, 0])
      #expect(try await test.backUp(test.record("vm", path, .qcow2)).receipt.merkleRoot == before)
    }
  }

  @Test func imageThatCantBeOpenedForDamageIsAFinding() async throws {
    try await withEngine { test in
      let location = try test.makeQcow2()
      // The L1 table's offset isn't that of a cluster any more.
      try SampleImage.damage(location.source.place, at: 47)
      let report = try await check(test, location)
      #expect(report.errorCount == 1 && report.findings.first?.contains("L1") == true, "\(report)")
    }
  }

  @Test(.eachToolVersion) func checkCanBeCancelledAndNeedsTheImageAtRest() async throws {
    try await withEngine { test in
      let location = try test.makeQcow2()
      await #expect(throws: CancellationError.self) {
        try await check(test, location, control: RecordingJobControl(cancelAtCheckpoint: 1))
      }
      let holder = try await PeerProcess("qemu-io", ["-f", "qcow2", location.source.place])
      try await eventually("QEMU has the image") {
        try await test.engine.inspect(location).locks.contains { $0.permission == "write" && $0.held }
      }
      #expect(await code { _ = try await check(test, location) } == .imageLocked)
      holder.stop()
      #expect(try await check(test, location).findings == [])
    }
  }
}
