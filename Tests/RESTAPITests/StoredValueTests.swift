import Model
import ModelTesting
import Testing

@testable import RESTAPI

/// Values that are stored as JSON are shown as they are stored, with their members in the order of their names.
@Suite struct StoredValueTests {
  private static let name: ResourceName = "vm1"

  private static func restored(_ target: JobResult.Restored.Target) -> JobResult {
    .restored(
      JobResult.Restored(
        backup: BackupID(), image: ImageID(), imageName: name, target: target, virtualSize: 1 << 40, writtenBytes: 7))
  }

  private static let results: [JobResult] = [
    .backedUp(
      JobResult.BackedUp([
        JobResult.BackedUp.Part(image: ImageID(), imageName: "vm1", backup: BackupID(), outcome: .complete),
        JobResult.BackedUp.Part(
          image: ImageID(), imageName: "vm2", backup: BackupID(), outcome: .failed,
          error: ProblemDetails(DomainError(.ioError, "sector 7 is \"bad\"", remedy: "replace it"))),
        JobResult.BackedUp.Part(
          image: ImageID(), imageName: "vm3", backup: BackupID(), outcome: .failed,
          error: ProblemDetails(DomainError(.ioError, "gone"))),
      ])),
    .verified(
      JobResult.Verified(
        backup: BackupID(), level: .checksum, isSound: false, findings: ["a", "b"], findingCount: 3, verifiedBytes: 5)),
    restored(.file(path: "/images/ä b", format: .qcow2)), restored(.image(ImageID(), name: name)),
    restored(.nbd(uri: "nbd://h/x", targetIsZero: true)),
    .deleted(JobResult.Deleted(backup: BackupID(), image: ImageID(), imageName: name)),
    .rescanned(
      JobResult.Rescanned(
        repository: RepositoryID(), repositoryName: "local", imagesAdded: 1, chainsAdded: 2, backupsAdded: 3,
        backupsChanged: 4, backupsMissing: 5, findings: ["x"], findingCount: 1)),
    .checked(
      JobResult.Checked(
        image: ImageID(), imageName: name, isSound: true, errors: 0, leaks: 2, repairedLeaks: 2, findings: [],
        truncated: false, checkedBytes: 65536)),
    .attached(JobResult.Attached(image: ImageID(), imageName: name, virtualSize: 5, cache: .direct)),
    .attached(JobResult.Attached(image: ImageID(), imageName: name, virtualSize: 5, cache: nil)),
    .detached(JobResult.Detached(image: ImageID(), imageName: name)),
    .reconciled(
      JobResult.Reconciled(
        image: ImageID(), imageName: name,
        disagreements: [
          {
            var disagreement = TrackingDisagreement(
              .exportedBitmapMissing, bitmap: BitmapName("b0"), export: ExportID(), "it is gone", repair: "take it off")
            (disagreement.outcome, disagreement.why) = (.left, "it is shown")
            return disagreement
          }(), TrackingDisagreement(.trackerMissing, "it is missing"),
        ], disagreementCount: 2)),
    .restoredGroup(
      JobResult.RestoredGroup(
        group: ULID(),
        restores: [
          JobResult.RestoredGroup.Part(
            image: ImageID(), imageName: "vm1", backup: BackupID(), outcome: .complete,
            restored: JobResult.Restored(
              backup: BackupID(), image: ImageID(), imageName: name, target: .file(path: "/a", format: .raw),
              virtualSize: 1, writtenBytes: 1)),
          JobResult.RestoredGroup.Part(
            image: ImageID(), imageName: "vm2", backup: BackupID(), outcome: .failed,
            error: ProblemDetails(DomainError(.ioError, "gone"))),
        ])),
    .verifiedChain(
      JobResult.VerifiedChain(
        chain: ChainID(), level: .metadata,
        backups: [
          JobResult.VerifiedChain.Part(
            backup: BackupID(), sequence: 0, outcome: .damaged, findings: ["a"], findingCount: 2, verifiedBytes: 9),
          JobResult.VerifiedChain.Part(
            backup: BackupID(), sequence: 1, outcome: .failed,
            error: ProblemDetails(DomainError(.ioError, "gone", remedy: "replace it"))),
        ])),
    .fleeced(JobResult.Fleeced(fleecing: FleecingID())),
    .finishedFleecing(JobResult.FinishedFleecing(fleecing: FleecingID(), outcome: .success)),
    .finishedFleecing(
      JobResult.FinishedFleecing(fleecing: FleecingID(), outcome: .success, checkpoint: ULID(), label: "monday")),
    .other(["later": [1, nil]]),
  ]

  @Test(arguments: results) func anAnswerShowsWhatIsStored(_ result: JobResult) {
    #expect(JSONWriter.string(of: result) == JSONWriter.string(of: result.stored))
  }

  @Test func linksAreShownAsTheyAreStored() throws {
    let links = JobLinks(
      image: ImageID(), images: [ImageID()], repository: RepositoryID(), backup: BackupID(),
      backups: [BackupID(), BackupID()], chains: [ChainID()], fleecing: FleecingID(), target: ImageID())
    let shown = try JSONParser.parse(JSONWriter.text(of: links)).members.map(\.key)
    #expect(shown == ["backup", "backups", "chains", "fleecing", "image", "images", "repository", "target"])
    #expect(JSONWriter.string(of: links) == JSONWriter.string(of: try JSONParser.parse(JSONWriter.text(of: links))))
    #expect(JSONWriter.string(of: JobLinks()) == "{}")
  }

  @Test func eventsAreShownAsTheyAreStored() {
    let failure = ImageFailure(image: ImageID(), operation: "flush", offset: 4096, errno: 5, detail: "no answer")
    var job = EventPayload(Job.sample())
    job.waitingFor = "the image 'vm1'"
    let payloads = [
      EventPayload(Image.sample("vm1"), failure: failure), EventPayload(Image.sample("vm1")),
      EventPayload(Repository.sample("local")), EventPayload(Export.sample("e", of: .image(ImageID()))),
      EventPayload(Export.sample("e", of: .backup(BackupID()))), EventPayload(Fleecing.sample(state: .broken)), job,
      EventPayload(),
    ]
    for payload in payloads { #expect(JSONWriter.string(of: payload) == JSONWriter.string(of: payload.stored)) }
  }
}
