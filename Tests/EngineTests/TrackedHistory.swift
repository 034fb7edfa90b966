import BlockTesting
import Engine
import Foundation
import Model
import ModelTesting
import Repositories
import Testing

/// An image, what was written to it, and its backups, each with a copy of the image's moment.
struct TrackedHistory {
  struct Point {
    let place: StoredBackupLocation
    let plan: BackupPlan
    let receipt: BackupReceipt
    let moment: String
  }

  let test: TestEngine
  let location: ImageLocation
  let image: ImageRecord
  var points: [Point] = []
  var path: String { location.source.place }

  /// A qcow2 image of version 3, in one file.
  init(_ test: TestEngine, size: String = "8M") throws {
    self.init(test, of: try test.makeQcow2(size: size))
  }

  init(_ test: TestEngine, of location: ImageLocation, image: ImageRecord? = nil, _ points: [Point] = []) {
    self.test = test
    self.location = location
    self.image =
      image
      ?? ImageRecord(
        id: ImageID(), name: "vm", source: location.source, format: location.format, labels: ["tier": "gold"])
    self.points = points
  }

  /// The same image and backups, by another engine on the same folders.
  func again(_ other: TestEngine) -> TrackedHistory {
    TrackedHistory(other, of: location, image: image, points)
  }

  func write(_ commands: String..., version: ToolVersion = .current) throws {
    try Tool.run(
      "qemu-io", ["-f", location.format.rawValue] + commands.flatMap { ["-c", $0] } + [path], version: version)
  }

  /// Writes as a guest does, on an export of the attached image.
  func writeAttached(_ commands: String..., before detaching: () throws -> Void = {}) async throws {
    let id = ImageID()
    try await test.attach(location, as: id)
    let export = test.order("vm", .attachedImage(id), isReadOnly: false)
    try await test.engine.export(export)
    try await Tool.runAside("qemu-io", ["-f", "raw"] + commands.flatMap { ["-c", $0] } + [test.uri(export)])
    try detaching()
    try await test.engine.withdraw(export.export, .hard)
    try await test.engine.detach(id)
  }

  mutating func backUp(
    _ kind: RequestedBackupKind, _ compression: Compression = .zstd, tracker: TrackerName? = nil
  ) async throws -> BackupPlan {
    var order = test.order(image, compression, kind: kind)
    if let tracker { order.tracker = tracker }
    order.isExclusive = location.isExclusive
    let control = RecordingJobControl()
    let moment = test.root + "/moment-\(points.count).raw"
    try Tool.run("qemu-img", "convert", "-f", location.format.rawValue, "-O", "raw", path, moment)
    let beginning = try await test.engine.begin(GroupOrder([order]), control: control)
    guard case .begun(let plan) = beginning[0] else { throw Tool.Failure(description: "\(beginning)") }
    let receipt = try await test.engine.store(order.backup, control: control)
    let place = StoredBackupLocation(
      repository: test.repository, image: image.id, chain: plan.chain, sequence: plan.sequence, backup: order.backup)
    points.append(Point(place: place, plan: plan, receipt: receipt, moment: moment))
    return plan
  }

  /// A cut leaves clusters that nothing uses: they are given back, as QEMU does it.
  func repairLeaks() throws { try Tool.run("qemu-img", "check", "-q", "-r", "leaks", "-f", "qcow2", path) }

  /// The newest backup holds what a copy of everything holds, and every point is restored.
  mutating func expectNothingMissed(_ what: Comment, all: Bool = false) async throws {
    let newest = try #require(points.last)
    let copy = try await test.backUp(test.order(image, .zstd, kind: .copy))
    #expect(copy.receipt.merkleRoot == newest.receipt.merkleRoot, what)
    if location.format == .qcow2 { try Tool.judge("check", "-q", "-f", "qcow2", path) }
    for point in all ? points : [newest] {
      let target = test.images + "/restored"
      try await test.restore(point.place, to: target, .raw)
      #expect(try SampleImage.bytes(target) == SampleImage.bytes(point.moment), what)
      try FileManager.default.removeItem(atPath: target)
    }
  }

  var bitmapNames: [String] {
    get async throws { try await test.engine.inspect(location).bitmaps.map(\.name) }
  }
}
