import Foundation
import Model

extension BackupCatalogConformance {
  static let images: [Check] = [
    Check("an image comes back as it was stored") { catalog in
      let odd = Image(
        name: "disk-0", source: .device(path: "/dev/vg0/päth \"q\""), format: .qcow2, virtualSize: 1 << 50,
        state: .unavailable,
        damage: Image.Damage(since: ManualClock.epoch, why: "a restore was cut", job: JobID()),
        labels: ["tier": "gold", "": "leer", "ü": "\u{0}\n"], managedBy: .config,
        createdAt: Date(timeIntervalSince1970: 1_767_225_600.123), revision: 7)
      try await catalog.write { try $0.insert(odd) }
      try expectEqual(try catalog.read { try $0.image(odd.id) }, odd)
      try expectEqual(try catalog.read { try $0.image(named: odd.name) }, odd)
      try expectEqual(try catalog.read { try $0.image(ImageID()) }, nil)
      try expectEqual(try catalog.read { try $0.image(named: "other") }, nil)
    },
    Check("an image comes back with where it is and how it is attached") { catalog in
      let sources: [ImageSource] = [
        .file(path: "/images/a.raw"), .device(path: "/dev/vg0/a"), .nbd(uri: "nbd+unix:///x?socket=/run/x.sock"),
      ]
      let attachments: [Attachment?] = [
        nil, Attachment(cache: .direct, cause: .request), Attachment(cache: .writeback, cause: .export),
      ]
      for (number, attachment) in attachments.enumerated() {
        var image = Image.sample(.numbered(number), attachment: attachment)
        image.source = sources[number]
        try await catalog.write { [image] in try $0.insert(image) }
        try expectEqual(try catalog.read { try $0.image(image.id) }, image)
        for (source, change) in zip(sources, attachments) {
          image.source = source
          image.attachment = change
          image = try await catalog.write { [image] in try $0.update(image) }
          try expectEqual(try catalog.read { try $0.image(image.id) }, image)
        }
      }
    },
    Check("an image's name is taken until it is deleted") { catalog in
      let first = Image.sample("vm1")
      let second = Image.sample("vm2")
      try await catalog.write { try $0.insert(first) }
      try await expectRefusal(.nameTaken, "a second vm1") {
        try await catalog.write { try $0.insert(Image.sample("vm1")) }
      }
      try await catalog.write { try $0.insert(second) }
      try await expectRefusal(.nameTaken, "a rename to vm1") {
        var renamed = second
        renamed.name = "vm1"
        try await catalog.write { [renamed] in try $0.update(renamed) }
      }
      try await catalog.write { try $0.delete(first.id) }
      try await catalog.write { try $0.insert(Image.sample("vm1")) }
    },
    Check("an image's id can be inserted once") { catalog in
      let image = Image.sample("vm1")
      try await catalog.write { try $0.insert(image) }
      try await expectRefusal(.preconditionFailed, "the same id again") {
        try await catalog.write { try $0.insert(Image.sample("vm2", id: image.id)) }
      }
    },
    Check("an update raises the revision, and a stale one is refused") { catalog in
      let image = Image.sample()
      var changed = image
      changed.labels = ["tier": "gold"]
      changed.name = "renamed"
      try await catalog.write { try $0.insert(image) }
      let updated = try await catalog.write { [changed] in try $0.update(changed) }
      changed.revision = 2
      try expectEqual(updated, changed, "the answer is the stored image")
      try expectEqual(try catalog.read { try $0.image(image.id) }, changed)
      try await expectRefusal(.preconditionFailed, "a stale revision") {
        try await catalog.write { try $0.update(image) }
      }
      try expectEqual(try catalog.read { try $0.image(image.id) }, changed, "a refused update changes nothing")
    },
    Check("what isn't there can't be changed or deleted") { catalog in
      try await expectRefusal(.notFound, "update") { try await catalog.write { try $0.update(Image.sample()) } }
      try await expectRefusal(.notFound, "delete") { try await catalog.write { try $0.delete(ImageID()) } }
    },
    Check("images come in pages, in order of id, each once") { catalog in
      let all = (0..<25).map { Image.sample(numbered: $0) }.sorted { $0.id < $1.id }
      try await catalog.write { transaction in for image in all.reversed() { try transaction.insert(image) } }
      for limit in [1, 7, 24, 25, 26] {
        let pages = try everyPage(limit: limit) { page in try catalog.read { try $0.images(page) } }
        try expectEqual(pages.flatMap(\.items), all, "limit \(limit) gives all")
        try expectEqual(pages.count, (25 + limit - 1) / limit, "no empty page at limit \(limit)")
      }
    },
    Check("a page has at least one item and at most the named bound") { catalog in
      try await catalog.write { transaction in
        for index in 0...PageRequest.maximumLimit { try transaction.insert(Image.sample(numbered: index)) }
      }
      let large = try catalog.read { try $0.images(PageRequest(limit: .max)) }
      try expectEqual(large.items.count, PageRequest.maximumLimit)
      try expect(large.next != nil, "the rest follows")
      try expectEqual(try catalog.read { try $0.images(PageRequest(limit: 0)) }.items.count, 1)
    },
    Check("a cursor that no page of the list gave is refused") { catalog in
      try await catalog.write { transaction in
        for index in 0..<3 { try transaction.insert(Image.sample(numbered: index)) }
      }
      let cursor = try catalog.read { try $0.images(PageRequest(limit: 1)) }.next ?? "none"
      for wrong in ["", "x", "%", "aW1hZ2VzOg", cursor + "=", cursor + "A", String(cursor.dropLast()), "\u{0}"] {
        try await expectRefusal(.invalidParameter, "'\(wrong)'") {
          _ = try catalog.read { try $0.images(PageRequest(after: wrong)) }
        }
      }
      try await expectRefusal(.invalidParameter, "a cursor of images, for jobs") {
        _ = try catalog.read { try $0.jobs(JobFilter(), PageRequest(after: cursor)) }
      }
      try await expectRefusal(.invalidParameter, "a cursor of images, for a log") {
        _ = try catalog.read { try $0.jobLog(JobID(), PageRequest(after: cursor)) }
      }
    },
  ]

  static let repositories: [Check] = [
    Check("a repository comes back as it was stored, and can be changed") { catalog in
      let repository = Repository(
        name: "off-site", path: "/backup/weit weg", state: .unavailable, managedBy: .config,
        createdAt: ManualClock.epoch, revision: 3)
      try await catalog.write { try $0.insert(repository) }
      try expectEqual(try catalog.read { try $0.repository(repository.id) }, repository)
      var changed = repository
      changed.state = .ready
      let updated = try await catalog.write { [changed] in try $0.update(changed) }
      try expectEqual(updated.revision, 4)
      try expectEqual(try catalog.read { try $0.repository(named: "off-site") }, updated)
      try await expectRefusal(.preconditionFailed, "a stale revision") {
        try await catalog.write { [changed] in try $0.update(changed) }
      }
      try await expectRefusal(.nameTaken, "the name again") {
        try await catalog.write { try $0.insert(Repository.sample("off-site")) }
      }
      try await expectRefusal(.preconditionFailed, "the id again") {
        try await catalog.write { try $0.insert(Repository.sample("other", id: repository.id)) }
      }
      try await expectRefusal(.notFound, "update of none") {
        try await catalog.write { try $0.update(Repository.sample("none")) }
      }
      try await expectRefusal(.notFound, "delete of none") { try await catalog.write { try $0.delete(RepositoryID()) } }
    },
    Check("repositories come in pages") { catalog in
      let all = (0..<5).map { Repository.sample(.numbered($0)) }.sorted { $0.id < $1.id }
      try await catalog.write { transaction in for repository in all { try transaction.insert(repository) } }
      let pages = try everyPage(limit: 2) { page in try catalog.read { try $0.repositories(page) } }
      try expectEqual(pages.flatMap(\.items), all)
    },
    Check("deleting a repository takes its chains and backups with it, and only its own") { catalog in
      let image = Image.sample()
      let gone = Repository.sample("gone")
      let kept = Repository.sample("kept")
      let goneChain = Chain.sample(of: image, in: gone)
      let keptChain = Chain.sample(of: image, in: kept)
      let goneBackup = Backup.sample(in: goneChain)
      let keptBackup = Backup.sample(in: keptChain)
      try await catalog.write { transaction in
        try transaction.insert(image)
        for repository in [gone, kept] { try transaction.insert(repository) }
        for chain in [goneChain, keptChain] { try transaction.insert(chain) }
        for backup in [goneBackup, keptBackup] { try transaction.insert(backup) }
        try transaction.delete(gone.id)
      }
      try expectEqual(try catalog.read { try $0.chains(image: nil, repository: nil, PageRequest()).items }, [keptChain])
      try expectEqual(try catalog.read { try $0.backups(BackupFilter(), PageRequest()).items }, [keptBackup])
      try expectEqual(try catalog.read { try $0.image(image.id) }, image)
    },
  ]

  static func everyPage<Item>(limit: Int, _ read: (PageRequest) throws -> Page<Item>) throws -> [Page<Item>] {
    var pages: [Page<Item>] = []
    var request = PageRequest(limit: limit)
    repeat {
      let page = try read(request)
      try expect(page.items.count <= limit, "a page of \(limit) holds no more")
      pages.append(page)
      try expect(pages.count < 10_000, "the list ends")
      request.after = page.next
    } while request.after != nil
    return pages
  }
}

extension ResourceName {
  /// A valid name for each number from 0.
  static func numbered(_ number: Int) -> ResourceName { ResourceName("item-\(number)") ?? "item" }
}

extension Image {
  static func sample(numbered number: Int) -> Image { .sample(.numbered(number)) }
}
