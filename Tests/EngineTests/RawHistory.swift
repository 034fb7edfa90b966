import BlockTesting
import Engine
import Foundation
import Model
import ModelTesting
import Repositories
import Testing

/// A raw image, what it held at each of its backups, and the backups.
struct RawHistory {
  struct Point {
    let place: StoredBackupLocation
    let plan: BackupPlan
    let receipt: BackupReceipt
    let bytes: Data
  }

  let test: TestEngine
  let path: String
  let image: ImageRecord
  var bytes: Data
  var points: [Point] = []

  init(_ test: TestEngine, byteCount: Int, seed: UInt64 = 1) throws {
    self.test = test
    path = test.images + "/vm.raw"
    try SampleImage.raw(at: path, byteCount: UInt64(byteCount), seed: seed)
    image = test.record("vm", path, .raw)
    bytes = try SampleImage.bytes(path)
  }

  mutating func change(_ body: (inout Data) -> Void) throws {
    body(&bytes)
    try bytes.write(to: URL(fileURLWithPath: path))
  }

  mutating func backUp(
    _ kind: RequestedBackupKind, _ compression: Compression = .zstd, unusable: Set<BackupID> = []
  ) async throws {
    var order = test.order(image, compression, kind: kind)
    order.unusableParents = unusable
    let beginning = try await test.engine.begin(GroupOrder([order]), control: RecordingJobControl())
    guard case .begun(let plan) = beginning[0] else { throw Tool.Failure(description: "\(beginning)") }
    let receipt = try await test.engine.store(order.backup, control: RecordingJobControl())
    let place = StoredBackupLocation(
      repository: test.repository, image: image.id, chain: plan.chain, sequence: plan.sequence,
      backup: order.backup)
    points.append(Point(place: place, plan: plan, receipt: receipt, bytes: bytes))
  }

  /// Each point is restored by us, and by qemu-img from its files alone.
  func expectAllRestorable(_ what: Comment) async throws {
    for (index, point) in points.enumerated() {
      let target = test.images + "/restored"
      try await test.restore(point.place, to: target, .raw)
      #expect(try SampleImage.bytes(target) == point.bytes, "\(what), point \(index)")
      try FileManager.default.removeItem(atPath: target)
      try Tool.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", point.place.fullPath(.data), target)
      #expect(try SampleImage.bytes(target).prefix(point.bytes.count) == point.bytes, "\(what), point \(index)")
      try FileManager.default.removeItem(atPath: target)
      let report = try await test.verify(point.place)
      #expect(report.findings == [], "\(what), point \(index)")
    }
  }
}
