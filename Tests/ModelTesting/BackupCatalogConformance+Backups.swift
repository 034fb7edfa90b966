import Foundation
import Model

extension BackupCatalogConformance {
  /// One image in one repository with one chain, stored.
  struct Shelf: Sendable {
    let image = Image.sample()
    let repository = Repository.sample()
    let chain: Chain

    init(in catalog: any BackupCatalog) async throws {
      let chain = Chain.sample(of: image, in: repository)
      self.chain = chain
      try await catalog.write { [image, repository] transaction in
        try transaction.insert(image)
        try transaction.insert(repository)
        try transaction.insert(chain)
      }
    }
  }

  static let backups: [Check] = [
    Check("a backup comes back as it was stored") { catalog in
      let shelf = try await Shelf(in: catalog)
      let date = Date(timeIntervalSince1970: 1_767_225_600.001)
      let full = Backup(
        image: shelf.image.id, repository: shelf.repository.id, chain: shelf.chain.id, sequence: 4, group: ULID(),
        groupImages: [ImageID(), shelf.image.id], kind: .copy, requestedKind: .full, reason: "weil",
        tracker: TrackerName("second-tool"), checkpoint: ULID(), granularity: 4096, parent: BackupID(),
        state: .corrupt, compression: .none,
        consistency: .filesystem, isMixture: true, pointInTime: date, createdAt: date, finishedAt: date,
        virtualSize: UInt64(Int64.max), dirtyBytes: 1, storedSize: 2, merkleRoot: "00ff", verifiedAt: date,
        verifyLevel: .checksum, job: JobID(), failure: "bit rot",
        beforeDeletion: Backup.BeforeDeletion(state: .expired, failure: "worn"),
        guestImpact: GuestImpact(
          copyCount: 1, copiedBytes: 65536,
          waits: GuestImpact.Waits(count: 2, p50Microseconds: 3, p99Microseconds: 4, maxMicroseconds: 5),
          memoryHighWater: 6, tempHighWater: 7, throttledSeconds: 0.25, sourceBytesRead: UInt64(Int64.max)),
        revision: 9)
      let bare = Backup.sample(in: shelf.chain, state: .running)
      try await catalog.write { transaction in
        try transaction.insert(full)
        try transaction.insert(bare)
      }
      try expectEqual(try catalog.read { try $0.backup(full.id) }, full)
      try expectEqual(try catalog.read { try $0.backup(bare.id) }, bare)
      try expectEqual(try catalog.read { try $0.backup(BackupID()) }, nil)
    },
    Check("a backup's update raises the revision, and a stale one is refused") { catalog in
      let shelf = try await Shelf(in: catalog)
      let running = Backup.sample(in: shelf.chain, state: .running)
      var done = running
      done.state = .complete
      done.finishedAt = ManualClock.epoch
      done.merkleRoot = "ab"
      done.verifiedAt = ManualClock.epoch
      done.verifyLevel = .metadata
      try await catalog.write { try $0.insert(running) }
      let updated = try await catalog.write { [done] in try $0.update(done) }
      done.revision = 2
      try expectEqual(updated, done)
      try expectEqual(try catalog.read { try $0.backup(running.id) }, done)
      try await expectRefusal(.preconditionFailed, "stale") { try await catalog.write { try $0.update(running) } }
      try await expectRefusal(.notFound, "update of none") {
        try await catalog.write { try $0.update(Backup.sample(in: shelf.chain)) }
      }
      try await expectRefusal(.preconditionFailed, "the same id again") {
        try await catalog.write { try $0.insert(running) }
      }
    },
    Check("each line of an image has its newest backup, and its checkpoints") { catalog in
      let shelf = try await Shelf(in: catalog)
      let other = Repository.sample("other")
      let elsewhere = Chain.sample(of: shelf.image, in: other)
      let foreign = Chain.sample(of: Image.sample("vm2"), in: shelf.repository)
      func backup(
        _ chain: Chain, _ tracker: String?, _ state: Backup.State = .complete, hasCheckpoint: Bool = true
      ) -> Backup {
        var backup = Backup.sample(in: chain, state: state)
        backup.tracker = tracker.flatMap(TrackerName.init)
        backup.checkpoint = hasCheckpoint ? ULID() : nil
        return backup
      }
      let all = [
        backup(shelf.chain, "a"), backup(shelf.chain, "a"), backup(shelf.chain, "b", hasCheckpoint: false),
        backup(elsewhere, "a"), backup(shelf.chain, nil, hasCheckpoint: false), backup(foreign, "a"),
        backup(shelf.chain, "a", .failed, hasCheckpoint: false), backup(shelf.chain, "b", .corrupt),
      ].sorted { $0.id < $1.id }
      try await catalog.write { transaction in
        try transaction.insert(other)
        try transaction.insert(elsewhere)
        try transaction.insert(foreign)
        for backup in all { try transaction.insert(backup) }
      }
      let own = all.filter { $0.image == shelf.image.id }
      let (a, b) = (try tracker("a"), try tracker("b"))
      func newest(_ tracker: TrackerName, _ repository: RepositoryID) -> Backup? {
        own.last { $0.tracker == tracker && $0.repository == repository && $0.state == .complete }
      }
      try catalog.read { view in
        for repository in [shelf.repository.id, other.id] {
          for tracker in [a, b] {
            try expectEqual(
              try view.newestBackup(of: shelf.image.id, in: repository, tracker: tracker), newest(tracker, repository))
          }
        }
        let lines = [newest(a, shelf.repository.id), newest(b, shelf.repository.id), newest(a, other.id)]
        try expectEqual(
          try view.newestBackups(of: shelf.image.id), lines.compactMap(\.self).sorted { $0.id < $1.id })
        try expectEqual(try view.newestBackups(of: ImageID()), [])
        let checkpoints = own.filter { $0.checkpoint != nil }
        let page = try view.checkpoints(of: shelf.image.id, PageRequest(limit: 3))
        try expectEqual(page.items, Array(checkpoints.prefix(3)))
        let rest = try view.checkpoints(of: shelf.image.id, PageRequest(after: page.next, limit: 3))
        try expectEqual(rest.items, Array(checkpoints.dropFirst(3)))
      }
    },
    Check("every filter of backups, alone and together") { catalog in
      let shelf = try await Shelf(in: catalog)
      let other = Repository.sample("other")
      let image = Image.sample("vm2")
      let chains = [shelf.chain, .sample(of: image, in: shelf.repository), .sample(of: image, in: other)]
      let all = chains.flatMap { chain in
        [Backup.State.complete, .failed, .complete].map { Backup.sample(in: chain, state: $0) }
      }.sorted { $0.id < $1.id }
      try await catalog.write { transaction in
        try transaction.insert(other)
        for chain in chains.dropFirst() { try transaction.insert(chain) }
        for backup in all { try transaction.insert(backup) }
      }
      for filter in someFilters(of: all) {
        let expected = all.filter { filter.holds($0) }
        let pages = try everyPage(limit: 2) { page in try catalog.read { try $0.backups(filter, page) } }
        try expectEqual(pages.flatMap(\.items), expected, "\(filter)")
      }
    },
    Check("a group is its own backups, in pages, in whatever state and repository") { catalog in
      let shelf = try await Shelf(in: catalog)
      let other = Repository.sample("other")
      let images = [shelf.image, Image.sample("vm2"), .sample("vm3")]
      let chains = [shelf.chain, .sample(of: images[1], in: shelf.repository), .sample(of: images[2], in: other)]
      let group = ULID()
      let members = zip(chains, [Backup.State.complete, .failed, .running]).map { chain, state in
        Backup.sample(in: chain, state: state, group: group, groupImages: images.map(\.id))
      }.sorted { $0.id < $1.id }
      let strangers = chains.map { Backup.sample(in: $0) }
      try await catalog.write { transaction in
        try transaction.insert(images[1])
        try transaction.insert(other)
        for chain in chains.dropFirst() { try transaction.insert(chain) }
        for backup in strangers + members { try transaction.insert(backup) }
      }
      for limit in 1...4 {
        let pages = try everyPage(limit: limit) { page in try catalog.read { try $0.backups(ofGroup: group, page) } }
        try expectEqual(pages.flatMap(\.items), members)
      }
      try catalog.read { view in
        try expectEqual(try view.backups(ofGroup: strangers[0].group, PageRequest()).items, [strangers[0]])
        try expectEqual(try view.backups(ofGroup: ULID(), PageRequest()).items, [])
        try expectEqual(
          try view.images(Set(images.map(\.id))), [images[0].id: images[0], images[1].id: images[1]])
        try expectEqual(try view.images([ImageID()] as Set), [:])
      }
    },
    Check("dependents are the backups whose parent it is") { catalog in
      let shelf = try await Shelf(in: catalog)
      let full = Backup.sample(in: shelf.chain)
      let children = (1...3).map { Backup.sample(in: shelf.chain, sequence: $0, parent: full.id) }
      try await catalog.write { transaction in
        for backup in [full] + children { try transaction.insert(backup) }
      }
      try expectEqual(try catalog.read { try $0.dependents(of: full.id) }, children.map(\.id).sorted())
      try expectEqual(try catalog.read { try $0.dependents(of: children[0].id) }, [])
      try await catalog.write { try $0.delete(children[1].id) }
      try expectEqual(try catalog.read { try $0.dependents(of: full.id) }.count, 2)
      try await expectRefusal(.notFound, "deleting it again") {
        try await catalog.write { try $0.delete(children[1].id) }
      }
    },
    Check("what is asked about many at once is what is told of each") { catalog in
      let shelf = try await Shelf(in: catalog)
      let other = Repository.sample("other")
      let chains = [shelf.chain, Chain.sample(of: .sample("vm2"), in: other), .sample(of: .sample("vm3"), in: other)]
      let fulls = chains.dropLast().map { Backup.sample(in: $0) }
      let children = fulls.flatMap { full in
        (1...2).map { Backup.sample(in: chains[full.chain == chains[0].id ? 0 : 1], sequence: $0, parent: full.id) }
      }
      try await catalog.write { transaction in
        try transaction.insert(other)
        for chain in chains.dropFirst() { try transaction.insert(chain) }
        for backup in fulls + children { try transaction.insert(backup) }
        for name in ["one", "two"] as [ResourceName] {
          try transaction.insert(Export.sample(name, of: .backup(fulls[1].id)))
        }
      }
      let (unknownChain, unknownBackup) = (ChainID(), BackupID())
      try catalog.read { view in
        try expectEqual(
          try view.repositories([shelf.repository.id, other.id, RepositoryID()]).keys.sorted(),
          [shelf.repository.id, other.id].sorted())
        let found = try view.chains(Set(chains.map(\.id) + [unknownChain]))
        try expectEqual(found, Dictionary(uniqueKeysWithValues: chains.map { ($0.id, $0) }))
        let backups = try view.backups(of: Set(chains.map(\.id) + [unknownChain]))
        for chain in chains {
          let expected = (fulls + children).filter { $0.chain == chain.id }.sorted { $0.id < $1.id }
          try expectEqual(backups[chain.id] ?? [], expected)
        }
        try expectEqual(backups[unknownChain], nil)
        let dependents = try view.dependents(of: Set((fulls + children).map(\.id) + [unknownBackup]))
        try expectEqual(Set(dependents.keys), Set(fulls.map(\.id)))
        for full in fulls {
          try expectEqual(dependents[full.id], children.filter { $0.parent == full.id }.map(\.id).sorted())
        }
        try expectEqual(try view.exported(among: Set(fulls.map(\.id) + [unknownBackup])), [fulls[1].id])
        try expectEqual(try view.exported(among: []), [])
      }
    },
    Check("an image's chains and backups outlive it, with its name") { catalog in
      let shelf = try await Shelf(in: catalog)
      let backup = Backup.sample(in: shelf.chain)
      try await catalog.write { transaction in
        try transaction.insert(backup)
        try transaction.setImageName("renamed", onChainsOf: shelf.image.id)
        try transaction.delete(shelf.image.id)
      }
      try expectEqual(try catalog.read { try $0.backup(backup.id) }, backup)
      try expectEqual(try catalog.read { try $0.chain(shelf.chain.id)?.imageName }, "renamed")
      try expectEqual(try catalog.read { try $0.image(shelf.image.id) }, nil)
    },
    Check("a rename reaches the image's own chains only") { catalog in
      let shelf = try await Shelf(in: catalog)
      let other = Chain.sample(of: .sample("vm2"), in: shelf.repository)
      try await catalog.write { transaction in
        try transaction.insert(other)
        try transaction.setImageName("renamed", onChainsOf: shelf.image.id)
        try transaction.setImageName("nobody", onChainsOf: ImageID())
      }
      let names = try catalog.read { [try $0.chain(shelf.chain.id)?.imageName, try $0.chain(other.id)?.imageName] }
      try expectEqual(names, ["renamed", "vm2"])
    },
    Check("chains by image and repository, in pages") { catalog in
      let shelf = try await Shelf(in: catalog)
      let other = Repository.sample("other")
      let image = Image.sample("vm2")
      let added: [Chain] = [
        .sample(of: image, in: shelf.repository), .sample(of: image, in: other), .sample(of: image, in: other),
      ]
      let all = ([shelf.chain] + added).sorted { $0.id < $1.id }
      try await catalog.write { transaction in
        try transaction.insert(other)
        for chain in added { try transaction.insert(chain) }
      }
      for wantedImage in [nil, image.id, shelf.image.id] {
        for wantedRepository in [nil, other.id, shelf.repository.id] {
          let expected = all.filter { chain in
            (wantedImage == nil || chain.image == wantedImage)
              && (wantedRepository == nil || chain.repository == wantedRepository)
          }
          let pages = try everyPage(limit: 1) { page in
            try catalog.read { try $0.chains(image: wantedImage, repository: wantedRepository, page) }
          }
          try expectEqual(pages.flatMap(\.items), expected)
        }
      }
    },
    Check("a chain needs its repository, a backup both, and a chain with backups stays") { catalog in
      let shelf = try await Shelf(in: catalog)
      let nowhere = Chain.sample(of: shelf.image, in: .sample("nowhere"))
      var stray = Backup.sample(in: shelf.chain)
      stray.repository = RepositoryID()
      try await expectRefusal(.notFound, "a chain in no repository") {
        try await catalog.write { try $0.insert(nowhere) }
      }
      try await expectRefusal(.notFound, "a backup in no chain") {
        let unchained = Chain.sample(of: shelf.image, in: shelf.repository)
        try await catalog.write { try $0.insert(Backup.sample(in: unchained)) }
      }
      try await expectRefusal(.notFound, "a backup in no repository") {
        try await catalog.write { [stray] in try $0.insert(stray) }
      }
      let backup = Backup.sample(in: shelf.chain)
      try await catalog.write { try $0.insert(backup) }
      try await expectRefusal(.backupHasDependents, "a chain that has backups") {
        try await catalog.write { try $0.delete(shelf.chain.id) }
      }
      try await catalog.write { transaction in
        try transaction.delete(backup.id)
        try transaction.delete(shelf.chain.id)
      }
      try await expectRefusal(.notFound, "the chain again") {
        try await catalog.write { try $0.delete(shelf.chain.id) }
      }
    },
  ]

  /// Every combination of "any" and one value for each field.
  private static func someFilters(of backups: [Backup]) -> [BackupFilter] {
    guard let one = backups.first else { return [] }
    return (0..<16).map { bits in
      BackupFilter(
        image: bits & 1 == 0 ? nil : one.image, repository: bits & 2 == 0 ? nil : one.repository,
        chain: bits & 4 == 0 ? nil : one.chain, state: bits & 8 == 0 ? nil : .complete)
    }
  }
}

extension BackupFilter {
  fileprivate func holds(_ backup: Backup) -> Bool {
    (image == nil || image == backup.image) && (repository == nil || repository == backup.repository)
      && (chain == nil || chain == backup.chain) && (state == nil || state == backup.state)
  }
}

private func tracker(_ text: String) throws -> TrackerName {
  guard let tracker = TrackerName(text) else { throw ExpectationFailure("\(text) is no tracker's name") }
  return tracker
}
