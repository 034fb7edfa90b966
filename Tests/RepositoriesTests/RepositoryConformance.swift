import Bytes
import BlockCore
import Buffers
import EventLoops
import Foundation
import Model
import ModelTesting
import Qcow2
import Repositories
import Testing

/// One storage under test, as servers of their own see it.
struct RepositoryStorage: Sendable {
  let location: RepositoryLocation
  let makeKind: @Sendable (_ writer: ULID) throws -> any RepositoryKind
}

/// What every kind of repository promises (R1–R5 of ``BackupRepository``), whatever it stores in.
struct RepositoryConformance {
  let storage: RepositoryStorage
  let loop: EventLoop
  let image = ImageRecord(
    id: ImageID(), name: "vm", source: .file(path: "/images/vm.raw"), format: .raw, labels: ["tier": "gold"])
  private let server = ULID()

  static let guestByteCount: UInt64 = 3 * 65536

  /// Runs them all, each beside what the ones before left.
  nonisolated(nonsending)
    func run() async throws
  {
    try await stageIsSeenByNobodyUntilItIsPublished()
    try await discardedStageLeavesNothing()
    try await takenIdAndFullChainAreRefused()
    try await leaseKeepsOthersOutAndItsLossKeepsFromPublishing()
    try await backupWithoutItsParentIsNotPublished()
    try await deletedBackupIsGoneAndAnotherOnesBaseStays()
    try await forgottenStageIsRemovedByItsServerAlone()
    try await renamesAreKeptWhereThereAreBackups()
    try await newestChainIsToldWithItsLinks()
  }

  // MARK: Parts

  nonisolated(nonsending)
    private func open(as writer: ULID? = nil) async throws -> any BackupRepository
  {
    try await storage.makeKind(writer ?? server).open(storage.location, on: loop)
  }

  private func place(_ chain: ChainID = ChainID(), sequence: Int = 0) -> StoredBackupLocation {
    StoredBackupLocation(
      repository: storage.location, image: image.id, chain: chain, sequence: sequence, backup: BackupID())
  }

  private func manifest(_ place: StoredBackupLocation, root: Digest, parent: Manifest? = nil) -> Manifest {
    let order = BackupOrder(
      backup: place.backup, newChain: place.chain, group: ULID(), kind: .full, image: image,
      repository: storage.location, compression: .none)
    let now = Date()
    let plan = BackupPlan(
      kind: parent == nil ? .full : .incremental, chain: place.chain, sequence: place.sequence,
      parent: parent.map { BackupPlan.Parent(backup: $0.backup, merkleRoot: $0.merkleRoot) }, reason: "a test",
      pointInTime: now)
    return Manifest(
      order: order, plan: plan, consistency: .offline, createdAt: now, finishedAt: now,
      virtualSize: Self.guestByteCount, dirtyBytes: 65536,
      merkleRoot: root)
  }

  /// Writes a guest's disk whose first grain holds ones. Returns the root.
  nonisolated(nonsending)
    private func fill(_ stage: any BackupStage) async throws -> Digest
  {
    let ones = [UInt8](repeating: 1, count: 65536)
    let hashes = try await stage.create(.hashes)
    let writer = try await HashTreeWriter(HashTree(byteCount: Self.guestByteCount), to: hashes, work: InlineWork())
    try await writer.put([HashTree.leaf(of: ones.span.bytes), .zero, .zero], at: 0)
    let root = try await writer.finish(backup: stage.backup.backup)
    try await hashes.flush()
    try await hashes.close()
    let device = try await stage.create(.data)
    try await Qcow2Image.create(on: device, options: .init(virtualByteCount: Self.guestByteCount))
    let data = try await Qcow2Image.open(
      device, options: .init(isReadOnly: false), work: InlineWork(), pool: BufferPool())
    try await data.write(ones.span.bytes, at: 0, options: [])
    try await data.flush()
    try await data.close()
    return root
  }

  nonisolated(nonsending)
    private func store(
      _ place: StoredBackupLocation, parent: Manifest? = nil, tracker: TrackerName? = nil
    ) async throws -> Manifest
  {
    try await open().withLease(on: image.id, control: RecordingJobControl()) { lease in
      let stage = try await lease.begin(place, of: image, for: JobID())
      var manifest = manifest(place, root: try await fill(stage), parent: parent)
      if let tracker { manifest.tracker = tracker.text }
      #expect(try await stage.publish(manifest) > 0)
      return manifest
    }
  }

  nonisolated(nonsending)
    private func code(_ body: () async throws -> Void) async -> ProblemCode?
  {
    do {
      try await body()
      return nil
    } catch {
      return (error as? DomainError)?.code ?? .internalError
    }
  }

  nonisolated(nonsending)
    private func backups() async throws -> Set<BackupID>
  {
    Set(try await open(as: ULID()).scan().backups.map(\.id))
  }

  // MARK: Rules

  nonisolated(nonsending)
    private func stageIsSeenByNobodyUntilItIsPublished() async throws
  {
    let place = place()
    try await open().withLease(on: image.id, control: RecordingJobControl()) { lease in
      let stage = try await lease.begin(place, of: image, for: JobID())
      let root = try await fill(stage)
      #expect(try await backups() == [])
      #expect(await code { _ = try await open().manifest(of: place) } == .backupNotComplete)
      _ = try await stage.publish(manifest(place, root: root))
    }
    let reader = try await open(as: ULID())
    let scan = try await reader.scan()
    #expect(scan.findings == [] && scan.images == [image] && scan.backups.map(\.id) == [place.backup])
    let stored = try await reader.stored(place)
    #expect(stored.manifest.madeBy == .hand)
    let hashes = try await stored.openHashes(work: InlineWork())
    try await hashes.reader.proveAll {}
    try await hashes.device.close()
    let data = try await stored.openData()
    var bytes = [UInt8](repeating: 9, count: 65537)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    try await data.read(into: &raw, at: 0)
    #expect(bytes[..<65536].allSatisfy { $0 == 1 } && bytes[65536] == 0)
    try await data.close()
  }

  nonisolated(nonsending)
    private func discardedStageLeavesNothing() async throws
  {
    let (before, place) = (try await backups(), place())
    for isFilled in [false, true, true] {
      try await open().withLease(on: image.id, control: RecordingJobControl()) { lease in
        let stage = try await lease.begin(place, of: image, for: JobID())
        if isFilled { _ = try await fill(stage) }
        #expect(await stage.discard() == [])
        #expect(await stage.discard() == [])
      }
      let scan = try await open().scan()
      #expect(scan.findings == [] && Set(scan.backups.map(\.id)) == before)
    }
  }

  nonisolated(nonsending)
    private func takenIdAndFullChainAreRefused() async throws
  {
    let last = place(sequence: Manifest.sequences.upperBound)
    let kept = try await store(last)
    var beyond = place(last.chain)
    beyond.sequence = Manifest.sequences.upperBound + 1
    let before = try await open().scan()
    try await open().withLease(on: image.id, control: RecordingJobControl()) { lease in
      #expect(await code { _ = try await lease.begin(last, of: image, for: JobID()) } == .targetExists)
      #expect(await code { _ = try await lease.begin(beyond, of: image, for: JobID()) } == .invalidField)
    }
    #expect(try await open().scan() == before)
    #expect(try await open().manifest(of: last).merkleRoot == kept.merkleRoot)
    #expect(before.findings == [] && before.backups.contains { $0.sequence == last.sequence })
  }

  nonisolated(nonsending)
    private func leaseKeepsOthersOutAndItsLossKeepsFromPublishing() async throws
  {
    let (before, place, control) = (try await backups(), place(), RecordingJobControl())
    let lease = try await open().takeLease(on: image.id, control: control)
    #expect(
      await code {
        let other = try await open(as: ULID()).takeLease(on: image.id, control: RecordingJobControl())
        await other.giveBack()
      } == .repositoryLeased)
    let stage = try await lease.begin(place, of: image, for: control.job)
    let root = try await fill(stage)
    await lease.giveBack()
    #expect(await code { _ = try await stage.publish(manifest(place, root: root)) } == .repositoryLeased)
    #expect(await stage.discard() == [])
    #expect(try await backups() == before)
    let next = try await open(as: ULID()).takeLease(on: image.id, control: control)
    #expect(next.epoch > lease.epoch)
    await next.giveBack()
  }

  nonisolated(nonsending)
    private func backupWithoutItsParentIsNotPublished() async throws
  {
    let base = place()
    var parent = try await store(base)
    let before = try await backups()
    parent.merkleRoot = Digest(of: "another").description
    for lost in [false, true] {
      if lost { try await open().delete(base, control: RecordingJobControl()) }
      let child = place(base.chain, sequence: 1)
      try await open().withLease(on: image.id, control: RecordingJobControl()) { lease in
        let stage = try await lease.begin(child, of: image, for: JobID())
        let manifest = manifest(child, root: try await fill(stage), parent: parent)
        #expect(await code { _ = try await stage.publish(manifest) } == .backupCorrupt)
        #expect(await stage.discard() == [])
      }
      #expect(try await backups() == (lost ? before.subtracting([base.backup]) : before))
    }
    #expect(try await open().scan().findings == [])
  }

  nonisolated(nonsending)
    private func deletedBackupIsGoneAndAnotherOnesBaseStays() async throws
  {
    let base = place()
    let parent = try await store(base)
    let child = place(base.chain, sequence: 1)
    _ = try await store(child, parent: parent)
    let control = RecordingJobControl()
    #expect(await code { try await open().delete(base, control: control) } == .backupHasDependents)
    #expect(try await open().manifest(of: base).merkleRoot == parent.merkleRoot)
    for place in [child, base] {
      for _ in 0..<2 { try await open().delete(place, control: control) }
      #expect(!(try await backups()).contains(place.backup))
      let refusal = await #expect(throws: DomainError.self) { _ = try await open().manifest(of: place) }
      #expect(refusal?.code == .backupNotComplete && refusal?.detail.contains("was deleted") == true)
    }
    #expect(try await open().scan().findings == [])
  }

  nonisolated(nonsending)
    private func newestChainIsToldWithItsLinks() async throws
  {
    // Above all that came before, whatever the clock says.
    let base = place(ChainID(ULID(at: Date() + 3600)))
    let full = try await store(base)
    let increment = try await store(place(base.chain, sequence: 1), parent: full)
    _ = try await store(place(base.chain, sequence: 4), parent: full)
    let second = try await store(place(base.chain, sequence: 5), parent: increment)
    let standard = TrackerName.standard(of: storage.location.id)
    let chain = try #require(try await open(as: ULID()).newestChain(of: image.id, tracker: standard))
    #expect(chain.id == base.chain && chain.nextSequence == 6 && chain.brokenCount == 0)
    #expect(chain.links.map(\.depth) == [1, 2, 2, 3] && chain.links.map(\.manifest.sequence) == [0, 1, 4, 5])
    #expect(chain.links[1].manifest.backup == increment.backup)
    #expect(try await open().newestChain(of: ImageID(), tracker: standard) == nil)
    let tracker = try #require(TrackerName("second-tool"))
    #expect(try await open().newestChain(of: image.id, tracker: tracker) == nil)
    let other = try await store(place(ChainID(ULID(at: Date() + 7200))), tracker: tracker)
    #expect(
      try await open().newestChain(of: image.id, tracker: tracker)?.links.map(\.manifest.backup) == [other.backup])
    #expect(try await open().newestChain(of: image.id, tracker: standard)?.id == base.chain, "the lines are apart")
    let stored = try await open().stored(increment.location(in: storage.location))
    let parent = try await open().parent(of: stored)
    #expect(parent?.manifest.backup == full.backup)
    if let parent { #expect(try await open().parent(of: parent)?.manifest == nil) }
    let ancestry = try await open().ancestry(of: try await open().stored(second.location(in: storage.location)))
    #expect(ancestry.map(\.manifest.backup) == [increment.backup, full.backup])
  }

  nonisolated(nonsending)
    private func forgottenStageIsRemovedByItsServerAlone() async throws
  {
    let (before, place, job) = (try await backups(), place(), JobID())
    let lease = try await open().takeLease(on: image.id, control: RecordingJobControl())
    let stage = try await lease.begin(place, of: image, for: job)
    _ = try await fill(stage)
    await lease.giveBack()
    #expect(try await open(as: ULID()).recover { _ in false }.removed == [])
    #expect(try await open().recover { $0 == job }.removed == [])
    #expect(try await open().scan().findings.count > 0)
    #expect(try await open().recover { _ in false }.removed.count > 0)
    let scan = try await open().scan()
    #expect(scan.findings == [] && Set(scan.backups.map(\.id)) == before)
  }

  nonisolated(nonsending)
    private func renamesAreKeptWhereThereAreBackups() async throws
  {
    var renamed = image
    renamed.name = "other"
    var stranger = image
    stranger.id = ImageID()
    for record in [renamed, stranger] { try await open().record(record, job: JobID()) }
    let scan = try await open().scan()
    #expect(scan.findings == [] && scan.images == [renamed])
    #expect(scan.chains.allSatisfy { $0.imageName == "other" })
  }
}
