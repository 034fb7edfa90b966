import Foundation
import Model

extension BackupCatalogConformance {
  static let exports: [Check] = [
    Check("exports of every kind come back as they were stored") { catalog in
      let date = Date(timeIntervalSince1970: 1_767_225_600.007)
      let all = [
        Export(
          name: "vm1", source: .image(ImageID()), isReadOnly: false, listen: .unix(path: "/run/päth \"q\".sock"),
          offersAllocationDepth: true, state: .unavailable, failure: "weg\n", createdAt: date, revision: 7),
        Export(
          name: "vm1-x509", source: .backup(BackupID()), isReadOnly: true, listen: .tcp(host: "::1", port: 65_535),
          tls: .x509, createdAt: date),
        Export(
          name: "vm1-psk", source: .backup(BackupID()), isReadOnly: true, listen: .tcp(host: "192.0.2.1", port: 1),
          tls: .psk, createdAt: date),
      ]
      try await catalog.write { transaction in for export in all { try transaction.insert(export) } }
      for export in all {
        try expectEqual(try catalog.read { try $0.export(export.id) }, export)
        try expectEqual(try catalog.read { try $0.export(named: export.name) }, export)
      }
      try expectEqual(try catalog.read { try $0.export(ExportID()) }, nil)
      try expectEqual(try catalog.read { try $0.export(named: "other") }, nil)
    },
    Check("an export's name is taken until it is deleted, by an image's name never") { catalog in
      let first = Export.sample("vm1")
      let second = Export.sample("vm2")
      try await catalog.write { transaction in
        try transaction.insert(Image.sample("vm1"))
        for export in [first, second] { try transaction.insert(export) }
      }
      try await expectRefusal(.nameTaken, "a second vm1, elsewhere") {
        try await catalog.write { try $0.insert(Export.sample("vm1", listen: .tcp(host: "::1", port: 10_809))) }
      }
      try await expectRefusal(.nameTaken, "a rename to vm1") {
        var renamed = second
        renamed.name = "vm1"
        try await catalog.write { [renamed] in try $0.update(renamed) }
      }
      try expectEqual(try catalog.read { try $0.export(second.id) }, second, "a refused rename changes nothing")
      try await catalog.write { try $0.delete(first.id) }
      try await catalog.write { try $0.insert(Export.sample("vm1")) }
      try await expectRefusal(.notFound, "deleting it again") { try await catalog.write { try $0.delete(first.id) } }
    },
    Check("an export's id can be inserted once") { catalog in
      let export = Export.sample("vm1")
      try await catalog.write { try $0.insert(export) }
      try await expectRefusal(.preconditionFailed, "the same id again") {
        try await catalog.write { try $0.insert(Export.sample("vm2", id: export.id)) }
      }
    },
    Check("an export's update raises the revision, and a stale one is refused") { catalog in
      let export = Export.sample()
      var changed = export
      changed.state = .unavailable
      changed.failure = "the image vm1 is locked"
      changed.name = "renamed"
      try await catalog.write { try $0.insert(export) }
      let updated = try await catalog.write { [changed] in try $0.update(changed) }
      changed.revision = 2
      try expectEqual(updated, changed, "the answer is the stored export")
      try expectEqual(try catalog.read { try $0.export(export.id) }, changed)
      try await expectRefusal(.preconditionFailed, "a stale revision") {
        try await catalog.write { try $0.update(export) }
      }
      try expectEqual(try catalog.read { try $0.export(export.id) }, changed, "a refused update changes nothing")
      try await expectRefusal(.notFound, "update of none") {
        try await catalog.write { try $0.update(Export.sample("none")) }
      }
    },
    Check("exports by image and backup, in pages, in order of id") { catalog in
      let image = ImageID()
      let backup = BackupID()
      let sources: [ExportSource] = [.image(image), .backup(backup), .image(ImageID()), .backup(BackupID())]
      let all = (0..<12).map { Export.sample(.numbered($0), of: sources[$0 % 4]) }.sorted { $0.id < $1.id }
      try await catalog.write { transaction in for export in all.reversed() { try transaction.insert(export) } }
      let expectations: [(ExportFilter, [Export])] = [
        (ExportFilter(), all),
        (ExportFilter(image: image), all.filter { $0.source == .image(image) }),
        (ExportFilter(backup: backup), all.filter { $0.source == .backup(backup) }),
        (ExportFilter(image: image, backup: backup), []),
        (ExportFilter(image: ImageID()), []),
        (ExportFilter(image: ImageID(backup.ulid)), []),
        (ExportFilter(backup: BackupID(image.ulid)), []),
      ]
      for (filter, expected) in expectations {
        for limit in [1, 2, 3, 11, 12, 13] {
          let pages = try everyPage(limit: limit) { page in try catalog.read { try $0.exports(filter, page) } }
          try expectEqual(pages.flatMap(\.items), expected, "\(filter) at limit \(limit)")
          try expectEqual(pages.count, max(1, (expected.count + limit - 1) / limit), "no empty page at limit \(limit)")
        }
      }
      let cursor = try catalog.read { try $0.exports(ExportFilter(), PageRequest(limit: 1)) }.next
      try await expectRefusal(.invalidParameter, "a cursor of exports, for images") {
        _ = try catalog.read { try $0.images(PageRequest(after: cursor)) }
      }
    },
    Check("an export stays when its image and its backup go") { catalog in
      let shelf = try await Shelf(in: catalog)
      let backup = Backup.sample(in: shelf.chain)
      let all = [Export.sample("a", of: .image(shelf.image.id)), Export.sample("b", of: .backup(backup.id))]
      try await catalog.write { transaction in
        try transaction.insert(backup)
        for export in all { try transaction.insert(export) }
        try transaction.delete(backup.id)
        try transaction.delete(shelf.image.id)
        try transaction.delete(shelf.repository.id)
      }
      try expectEqual(try catalog.read { view in try all.map { try view.export($0.id) } }, all)
    },
  ]
}
