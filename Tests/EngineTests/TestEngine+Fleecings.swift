import Engine
import Foundation
import Model
import ModelTesting
import Testing

extension TestEngine {
  func fleecing(
    _ guests: [AttachedGuest], release: Fleecing.Release = .none, access: Fleecing.Access = .all,
    since base: FleecingOrder.Base? = nil, tracker: TrackerName = Fleecing.standardTracker
  ) -> FleecingOrder {
    let id = FleecingID()
    return FleecingOrder(
      fleecing: id,
      parts: guests.map {
        FleecingOrder.Part(
          image: $0.record.id, imageName: $0.record.name, location: $0.location, exportName: "\($0.record.name)@\(id)",
          base: base)
      }, listen: .unix(path: socket("fleece")), release: release, access: access,
      contextName: base == nil ? nil : "changed", tracker: tracker)
  }

  /// Where clients find a view.
  func uri(_ order: FleecingOrder, part index: Int = 0) -> String {
    order.listen.uri(of: order.parts[index].exportName, usesTLS: false)
  }

  @discardableResult
  func begin(_ order: FleecingOrder) async throws -> FleecingReceipt {
    try await engine.fleece(order, control: RecordingJobControl())
  }

  /// What a client copies.
  func copied(_ order: FleecingOrder, part index: Int = 0) async throws -> Data {
    let target = root + "/copied-\(ULID()).raw"
    try await Tool.runAside("nbdcopy", [uri(order, part: index), target])
    defer { try? FileManager.default.removeItem(atPath: target) }
    return try SampleImage.bytes(target)
  }

  func activity(_ order: FleecingOrder, part index: Int = 0) async -> FleecingActivity.Part? {
    await engine.activity(of: order.fleecing)?.parts[order.parts[index].image]
  }
}
