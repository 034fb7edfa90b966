import Foundation
import Model

extension BackupCatalogConformance {
  static let fleecings: [Check] = [
    Check("fleecings of every state come back as they were stored") { catalog in
      var all = Fleecing.State.allCases.map { Fleecing.sample(of: [.sample("vm1"), .sample("vm2")], state: $0) }
      all.append(
        Fleecing(
          images: [
            Fleecing.Part(
              image: ImageID(), imageName: "vm1", virtualSize: 1 << 20, dirtyBytes: 0,
              tracked: TrackedPoint(granularity: 4096, marks: [1, 255]))
          ], listen: .tcp(host: "::1", port: 65_535), tls: .psk, release: .trim, access: .dirty,
          since: .bitmap(BitmapName([0xFF, 0x41])), tracker: TrackerName("second-tool")!, checkpoint: ULID(),
          label: "mönday",
          createdAt: Date(timeIntervalSince1970: 1_767_225_600.007), revision: 7))
      try await catalog.write { [all] transaction in for fleecing in all { try transaction.insert(fleecing) } }
      for fleecing in all { try expectEqual(try catalog.read { try $0.fleecing(fleecing.id) }, fleecing) }
      try expectEqual(try catalog.read { try $0.fleecing(FleecingID()) }, nil)
    },
    Check("a fleecing's update raises the revision, and a stale one is refused") { catalog in
      let fleecing = Fleecing.sample()
      try await catalog.write { try $0.insert(fleecing) }
      try await expectRefusal(.preconditionFailed, "the same id again") {
        try await catalog.write { try $0.insert(fleecing) }
      }
      var changed = fleecing
      changed.state = .expired
      let updated = try await catalog.write { [changed] in try $0.update(changed) }
      changed.revision = 2
      try expectEqual(updated, changed, "the answer is the stored fleecing")
      try await expectRefusal(.preconditionFailed, "a stale revision") {
        try await catalog.write { try $0.update(fleecing) }
      }
      try expectEqual(try catalog.read { try $0.fleecing(fleecing.id) }, changed, "a refused update changes nothing")
      try await catalog.write { try $0.delete(fleecing.id) }
      try await expectRefusal(.notFound, "deleting it again") { try await catalog.write { try $0.delete(fleecing.id) } }
      try await expectRefusal(.notFound, "update of none") { try await catalog.write { try $0.update(fleecing) } }
    },
    Check("checkpoints of fleecings are kept by image, in order of id") { catalog in
      let image = ImageID()
      func checkpoint(of image: ImageID, _ label: String?) -> FleecingCheckpoint {
        FleecingCheckpoint(
          id: ULID(), image: image, tracker: Fleecing.standardTracker, label: label,
          tracked: TrackedPoint(granularity: 65536, marks: [3]), pointInTime: ManualClock.epoch)
      }
      let mine = [checkpoint(of: image, "a"), checkpoint(of: image, nil)].sorted { $0.id < $1.id }
      var twin = mine[0]
      twin.image = ImageID()
      try await catalog.write { [twin] transaction in
        for checkpoint in mine.reversed() + [twin] { try transaction.insert(checkpoint) }
      }
      try expectEqual(try catalog.read { try $0.fleecingCheckpoints(of: image) }, mine)
      try expectEqual(try catalog.read { [twin] in try $0.fleecingCheckpoints(of: twin.image) }, [twin])
      try await expectRefusal(.preconditionFailed, "the same again") {
        try await catalog.write { try $0.insert(mine[0]) }
      }
      try await catalog.write { try $0.delete(mine[0]) }
      try await catalog.write { try $0.delete(mine[0]) }
      try expectEqual(try catalog.read { try $0.fleecingCheckpoints(of: image) }, [mine[1]])
      try expectEqual(try catalog.read { [twin] in try $0.fleecingCheckpoints(of: twin.image) }, [twin])
    },
    Check("fleecings by state, in pages, in order of id") { catalog in
      let states = Fleecing.State.allCases
      let all = (0..<14).map { Fleecing.sample(state: states[$0 % states.count]) }.sorted { $0.id < $1.id }
      try await catalog.write { transaction in for fleecing in all.reversed() { try transaction.insert(fleecing) } }
      for states in [nil, Fleecing.State.live, Fleecing.State.ended, [.active], []] as [Set<Fleecing.State>?] {
        let expected = all.filter { states?.contains($0.state) ?? true }
        for limit in [1, 3, 14] {
          let pages = try everyPage(limit: limit) { page in
            try catalog.read { try $0.fleecings(FleecingFilter(states: states), page) }
          }
          try expectEqual(pages.flatMap(\.items), expected, "\(String(describing: states)) at limit \(limit)")
        }
      }
    },
  ]
}
