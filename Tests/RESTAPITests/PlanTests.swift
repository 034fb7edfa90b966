import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@testable import RESTAPI

/// What a plan shows of the resource that it is about.
@Suite struct PlanTests {
  private static let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV"

  private static func identifier<Entity>(of type: Entity.Type) throws -> Identifier<Entity> {
    try #require(Identifier<Entity>(id))
  }

  @Test func eachResourceIsShownByItsNames() throws {
    let image = try Self.identifier(of: Image.self)
    let backup = try Self.identifier(of: Backup.self)
    let repository = try Self.identifier(of: Repository.self)
    func export(_ source: ExportSource, _ listen: ExportAddress, _ tls: ExportTLS?) -> PlannedResource {
      .export(
        Export(name: "e", source: source, isReadOnly: tls == nil, listen: listen, tls: tls, createdAt: .distantPast))
    }
    let id = Self.id
    let contexts = #""contexts":{"allocationDepth":false,"bitmaps":[],"changedSince":[]}"#
    let shown: [(PlannedResource, String)] = [
      (
        .image(
          Image(
            name: "vm1", source: .file(path: "/images/vm1"), format: .raw, virtualSize: 5,
            labels: ["b": "c", "a": "d"], createdAt: .distantPast)),
        #"{"exclusive":false,"format":"raw","labels":{"a":"d","b":"c"},"name":"vm1","path":"/images/vm1","virtualSize":5}"#
      ),
      (
        .repository(RepositoryDraft(name: "local", path: "/backup")),
        #"{"kind":"directory","name":"local","path":"/backup"}"#
      ),
      (
        export(.image(image), .unix(path: "/run/e"), nil),
        #"{\#(contexts),"image":"\#(id)","listen":"unix:/run/e","name":"e","readOnly":true}"#
      ),
      (
        export(.backup(backup), .tcp(host: "::1", port: 7), .psk),
        #"{\#(contexts),"backup":"\#(id)","listen":"[::1]:7","name":"e","readOnly":false,"tls":"psk"}"#
      ),
      (.repositoryName("local", path: "/backup"), #"{"name":"local","path":"/backup"}"#),
      (.exportEnd(try Self.identifier(of: Export.self), name: "e"), #"{"export":"\#(id)","name":"e"}"#),
      (.clearedImage("vm1"), #"{"name":"vm1"}"#),
      (.job(try Self.identifier(of: Job.self), next: .cancelling), #"{"job":"\#(id)","state":"cancelling"}"#),
      (.attachment(of: image, cache: nil), #"{"image":"\#(id)"}"#),
      (.attachment(of: image, cache: .direct), #"{"cache":"direct","image":"\#(id)"}"#),
      (.detachment(of: image), #"{"image":"\#(id)"}"#),
      (.check(of: image, repairsLeaks: true), #"{"image":"\#(id)","repairLeaks":true}"#),
      (.rescan(of: repository), #"{"repository":"\#(id)"}"#),
      (
        .backups(of: [image], into: repository, .full, .zstd, speedLimit: 9),
        #"{"compression":"zstd","images":["\#(id)"],"kind":"full","repository":"\#(id)","speedLimit":9}"#
      ),
      (.verification(of: backup, .checksum), #"{"backup":"\#(id)","level":"checksum"}"#),
      (
        .chainVerification(of: try Self.identifier(of: Chain.self), .metadata),
        #"{"chain":"\#(id)","level":"metadata"}"#
      ),
      (
        .tracker(.standard(of: RepositoryID(backup.ulid)), of: ImageID(backup.ulid)),
        #"{"image":"\#(id)","tracker":"\#(id.lowercased())"}"#
      ),
      (
        .groupRestore(of: backup.ulid, [backup]), #"{"backups":["\#(id)"],"group":"\#(id)"}"#
      ),
      (
        .reconciliation(
          of: image, [TrackingDisagreement(.marksLeft, bitmap: BitmapName([0xFF]), "they are", repair: "take them")]),
        #"{"disagreements":[{"bitmap":"%FF","bitmapEncoded":true,"code":"marks-left","detail":"they are","#
          + #""repair":"take them"}],"image":"\#(id)"}"#
      ),
      (.restore(of: backup), #"{"backup":"\#(id)"}"#),
      (.deletion(of: backup), #"{"backup":"\#(id)"}"#),
    ]
    for (resource, text) in shown { #expect(JSONWriter.string(of: resource) == text) }
  }
}
