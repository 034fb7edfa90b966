import Foundation
import Model
import ModelTesting
import Repositories
import Testing

/// The names and documents of a repository.
struct DocumentTests {
  @Test func fileNamesReadBackOnlyAsTheyAreWritten() {
    let id = BackupID()
    for part in BackupFileName.Part.allCases {
      let name = BackupFileName(sequence: 12, backup: id, part: part)
      #expect(name.text == "0012-\(id).\(part.rawValue)")
      #expect(BackupFileName(name.text) == name)
      let work = PartFileName(target: name.text, writer: ULID(), job: JobID())
      #expect(PartFileName(work.text) == work)
      #expect(BackupFileName(work.text) == nil)
    }
    for text in [
      "", "0012", "12-\(id).json", "0012-\(id).json ", "0012-\(id.description.lowercased()).json", "+012-\(id).json",
      "0012-\(id).exe", "0012-\(id)json", "00012-\(id).json", ".part", "x.part", "x.y.z.part",
    ] {
      #expect(BackupFileName(text) == nil, "\(text)")
      #expect(PartFileName(text) == nil, "\(text)")
    }
  }

  /// What is written at either end of a chain is read back, and nothing beyond.
  @Test func sequencesEndWhereTheirNamesDo() {
    let id = BackupID()
    for sequence in [Manifest.sequences.lowerBound, 9, 10, 999, 1000, Manifest.sequences.upperBound] {
      let name = BackupFileName(sequence: sequence, backup: id, part: .data)
      #expect(BackupFileName(name.text) == name)
    }
    for sequence in [-1, Manifest.sequences.upperBound + 1, 100_000] {
      #expect(BackupFileName(BackupFileName(sequence: sequence, backup: id, part: .data).text) == nil)
    }
  }

  @Test func trashNamesTellTheTimeOfDeletion() {
    for milliseconds in [0, 1_767_225_600_123, 1_795_386_123_456] {
      let name = TrashName(
        deletedAt: Date(timeIntervalSince1970: Double(milliseconds) / 1000), backup: BackupID())
      #expect(TrashName(name.text) == name)
    }
    let id = BackupID()
    let time = Date(timeIntervalSince1970: 1_795_386_123.456)
    #expect(TrashName(deletedAt: time, backup: id).text == "20261122T222203456Z-\(id)")
    for text in [
      "", "-", "\(id)", "20261122T222203Z-\(id)", "20261322T234203456Z-\(id)", "20261122T234203456Z-\(id)-",
      "20261122t222203456z-\(id)", "2026-1122T234203456-\(id)", "ääääääääääääääääääZ-\(id)",
    ] {
      #expect(TrashName(text) == nil, "\(text)")
    }
  }

  @Test func damagedDocumentsAreRefused() throws {
    let record = ImageRecord(
      id: ImageID(), name: "vm", source: .file(path: "/images/vm \"1\".qcow2"), format: .qcow2, labels: ["a": "ü\n"])
    let bytes = try CheckedDocumentCodec.encode(ImageDescription(record))
    #expect(try CheckedDocumentCodec.decode(ImageDescription.self, from: bytes).record == record)
    for index in bytes.indices {
      var damaged = bytes
      damaged[index] ^= 0x01
      #expect(throws: DocumentDamage.self, "byte \(index)") {
        try CheckedDocumentCodec.decode(ImageDescription.self, from: damaged)
      }
    }
    for count in [0, 1, bytes.count / 2, bytes.count - 1] {
      #expect(throws: DocumentDamage.self) {
        try CheckedDocumentCodec.decode(ImageDescription.self, from: Array(bytes[..<count]))
      }
    }
    let text = String(decoding: bytes, as: UTF8.self)
    let newer = text.replacingOccurrences(of: "\"formatVersion\" : 1", with: "\"formatVersion\" : 2")
    try #require(newer != text)
    let damage = #expect(throws: DocumentDamage.self) {
      try CheckedDocumentCodec.decode(ImageDescription.self, from: Array(newer.utf8))
    }
    #expect(damage?.text.contains("checksum") == false, "\(damage as Any)")
  }

  @Test func timesKeepTheirMillisecond() throws {
    for milliseconds in [0, 1, 999, 1_767_225_600_000, 1_767_225_600_123, 1_795_386_123_456, 4_102_444_799_999] {
      let date = Date(timeIntervalSince1970: Double(milliseconds) / 1000)
      let document = RepositoryDescription(id: RepositoryID(), createdAt: date)
      let bytes = try CheckedDocumentCodec.encode(document)
      #expect(try CheckedDocumentCodec.decode(RepositoryDescription.self, from: bytes).createdAt == date)
    }
  }
}
