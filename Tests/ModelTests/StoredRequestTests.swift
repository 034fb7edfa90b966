import Foundation
import Model
import Testing

/// Rows of released versions hold this text: it must be read for ever, and is written so that those read it too.
struct StoredRequestTests {
  private static let id = "01J00000000000000000000000"

  private func expectForm(_ form: String, is request: JobRequest) throws {
    #expect(try JSONDecoder().decode(JobRequest.self, from: Data(form.utf8)) == request)
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    #expect(String(decoding: try encoder.encode(request), as: UTF8.self) == form)
  }

  @Test func requestsOfTheFirstReleaseKeepTheirForm() throws {
    let id = Self.id
    let ulid = try #require(ULID(id))
    let backup = BackupID(ulid)
    try expectForm(
      #"{"backup":{"_0":{"backups":["\#(id)"],"compression":"zstd","group":"\#(id)","images":["\#(id)"],"#
        + #""kind":"copy","repository":"\#(id)","speedLimit":0}}}"#,
      is: .backup(
        BackupJobRequest(
          images: [ImageID(ulid)], backups: [backup], group: ulid, repository: RepositoryID(ulid), kind: .copy,
          compression: .zstd, speedLimit: 0)))
    try expectForm(#"{"verify":{"backup":"\#(id)","level":"checksum"}}"#, is: .verify(backup: backup, level: .checksum))
    try expectForm(
      #"{"restore":{"backup":"\#(id)","target":{"newFile":{"format":"raw","path":"/images/a.raw"}}}}"#,
      is: .restore(backup: backup, target: .newFile(path: "/images/a.raw", format: .raw)))
    try expectForm(
      #"{"restore":{"backup":"\#(id)","target":{"image":{"_0":"\#(id)"}}}}"#,
      is: .restore(backup: backup, target: .image(ImageID(ulid))))
    try expectForm(#"{"deleteBackup":{"backup":"\#(id)"}}"#, is: .deleteBackup(backup: backup))
    try expectForm(#"{"rescan":{"repository":"\#(id)"}}"#, is: .rescan(repository: RepositoryID(ulid)))
  }

  @Test func requestsAboutAttachedImagesAndNBDTargetsKeepTheirForm() throws {
    let id = Self.id
    let image = ImageID(try #require(ULID(id)))
    try expectForm(
      #"{"restore":{"backup":"\#(id)","target":{"nbd":{"targetIsZero":false,"uri":"nbd+unix:///x?socket=/run/x"}}}}"#,
      is: .restore(
        backup: BackupID(image.ulid), target: .nbd(uri: "nbd+unix:///x?socket=/run/x", targetIsZero: false)))
    try expectForm(
      #"{"check":{"image":"\#(id)","repairsLeaks":false}}"#, is: .check(image: image, repairsLeaks: false))
    try expectForm(
      #"{"attach":{"cache":"writeback","image":"\#(id)"}}"#, is: .attach(image: image, cache: .writeback))
    try expectForm(#"{"attach":{"image":"\#(id)"}}"#, is: .attach(image: image, cache: nil))
    try expectForm(#"{"detach":{"image":"\#(id)"}}"#, is: .detach(image: image))
    try expectForm(#"{"reconcile":{"image":"\#(id)"}}"#, is: .reconcile(image: image))
  }

  @Test func requestsAboutFleecingsKeepTheirForm() throws {
    let id = Self.id
    let ulid = try #require(ULID(id))
    try expectForm(
      #"{"fleece":{"fleecing":"\#(id)","images":["\#(id)"],"lifetime":60}}"#,
      is: .fleece(fleecing: FleecingID(ulid), images: [ImageID(ulid)], lifetime: 60))
    try expectForm(
      #"{"finishFleecing":{"fleecing":"\#(id)","images":["\#(id)"],"outcome":"success"}}"#,
      is: .finishFleecing(fleecing: FleecingID(ulid), images: [ImageID(ulid)], outcome: .success))
    try expectForm(
      #"{"finishFleecing":{"fleecing":"\#(id)","images":["\#(id)"],"label":"monday","outcome":"success"}}"#,
      is: .finishFleecing(
        fleecing: FleecingID(ulid), images: [ImageID(ulid)], outcome: .success, label: "monday"))
  }

  @Test func requestsAboutChainsAndGroupsKeepTheirForm() throws {
    let id = Self.id
    let ulid = try #require(ULID(id))
    try expectForm(
      #"{"restoreGroup":{"group":"\#(id)","restores":[{"backup":"\#(id)","image":"\#(id)","#
        + #""target":{"image":{"_0":"\#(id)"}}}]}}"#,
      is: .restoreGroup(
        group: ulid,
        restores: [GroupRestore(image: ImageID(ulid), backup: BackupID(ulid), target: .image(ImageID(ulid)))]))
    try expectForm(
      #"{"verifyChain":{"chain":"\#(id)","level":"metadata"}}"#,
      is: .verifyChain(chain: ChainID(try #require(ULID(id))), level: .metadata))
  }
}
