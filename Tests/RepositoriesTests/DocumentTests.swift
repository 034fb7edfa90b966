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

  @Test func documentsAreReadStrictly() throws {
    let record = ImageRecord(
      id: ImageID(), name: "vm", source: .file(path: "/images/vm \"1\".qcow2"), format: .qcow2, labels: ["a": "ü\n"])
    let bytes = try CheckedDocumentCodec.encode(ImageDocument(record))
    #expect(try CheckedDocumentCodec.decode(ImageDocument.self, from: bytes).record == record)
    for index in bytes.indices {
      var damaged = bytes
      damaged[index] ^= 0x01
      #expect(throws: DocumentDamage.self, "byte \(index)") {
        try CheckedDocumentCodec.decode(ImageDocument.self, from: damaged)
      }
    }
    for count in [0, 1, bytes.count / 2, bytes.count - 1] {
      #expect(throws: DocumentDamage.self) {
        try CheckedDocumentCodec.decode(ImageDocument.self, from: Array(bytes[..<count]))
      }
    }
    let text = String(decoding: bytes, as: UTF8.self)
    for (old, new) in [("\"labels\"", "\"extra\" : 1, \"labels\""), ("\"formatVersion\" : 1", "\"formatVersion\" : 2")]
    {
      let changed = text.replacingOccurrences(of: old, with: new)
      try #require(changed != text)
      let damage = #expect(throws: DocumentDamage.self) {
        try CheckedDocumentCodec.decode(ImageDocument.self, from: Array(changed.utf8))
      }
      #expect(damage?.text.contains("checksum") == false, "\(damage as Any)")
    }
  }

  @Test func timesKeepTheirMillisecond() throws {
    for milliseconds in [0, 1, 999, 1_767_225_600_000, 1_767_225_600_123, 1_795_386_123_456, 4_102_444_799_999] {
      let date = Date(timeIntervalSince1970: Double(milliseconds) / 1000)
      let document = RepositoryDocument(id: RepositoryID(), createdAt: date)
      let bytes = try CheckedDocumentCodec.encode(document)
      #expect(try CheckedDocumentCodec.decode(RepositoryDocument.self, from: bytes).createdAt == date)
    }
  }
}
