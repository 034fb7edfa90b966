import Bytes
import BlockCore
import EventLoops
import Failures
import Foundation
import Model
import Qcow2
import Repositories

extension LocalEngine {
  package func store(_ backup: BackupID, control: any JobControl) async throws -> BackupReceipt {
    guard let begun = begunBackups.take(backup) else {
      throw DomainError(.internalError, "backup \(backup) isn't begun")
    }
    return try await onLoop(begun.loop, for: control.job, in: begun.order.repository.lane) { [self] loop in
      let result: Result<BackupReceipt, any Error>
      do { result = .success(try await fill(begun, loop, control)) } catch { result = .failure(error) }
      if case .failure(let error) = result {
        if (error as? DomainError)?.code == .trackingLost { await giveUpTracking(begun, on: loop, control) }
        for text in await begun.stage.discard() {
          control.log(.warning, "a leftover couldn't be removed, recovery will try again: \(text)")
        }
      }
      await begun.lease.giveBack()
      await begun.image.letGo()
      return try result.get()
    }
  }

  /// Copies the image into its stage, and publishes it.
  nonisolated(nonsending)
    private func fill(
      _ begun: BegunBackup, _ loop: EventLoop, _ control: any JobControl
    ) async throws -> BackupReceipt
  {
    let (repository, stage, order, plan) = (begun.repository, begun.stage, begun.order, begun.plan)
    let names = (data: repository.name(of: .data, stage.backup), hashes: repository.name(of: .hashes, stage.backup))
    let copied = try await copy(begun, names, loop, control)
    switch begun.image {
    case .atRest(let image): try await checkUnchanged(image, loop)
    // All was read. The guest needn't wait for the repository any more.
    case .attached(let point): await point.endView()
    }
    try await control.checkpoint()
    let checkpoint = begun.checkpoint
    var manifest = Manifest(
      order: order, plan: plan, consistency: begun.image.consistency, createdAt: order.backup.ulid.date,
      finishedAt: clock.now(), virtualSize: copied.byteCount, dirtyBytes: copied.changedByteCount,
      merkleRoot: copied.root)
    if let checkpoint {
      (manifest.checkpoint, manifest.marks) = (checkpoint.id, checkpoint.marks)
      manifest.granularity = Int(checkpoint.granularity)
    }
    let storedSize = try await stage.publish(manifest)
    control.log(.info, "the backup is complete: \(repository.name(of: stage.backup))")
    if let checkpoint { await set(checkpoint, after: begun, on: loop, control) }
    return BackupReceipt(
      pointInTime: manifest.pointInTime, finishedAt: manifest.finishedAt, virtualSize: manifest.virtualSize,
      dirtyBytes: manifest.dirtyBytes, storedSize: storedSize, merkleRoot: manifest.merkleRoot,
      consistency: manifest.consistency, checkpoint: manifest.checkpoint, granularity: manifest.granularity,
      guestImpact: begun.image.guestImpact)
  }

  /// What a backup's files hold.
  private struct Copied {
    let root: Digest
    let changedByteCount: UInt64
    /// Bytes of the disk at the moment.
    let byteCount: UInt64
  }

  /// Writes data and hashes and closes them.
  nonisolated(nonsending)
    private func copy(
      _ begun: BegunBackup, _ names: (data: String, hashes: String), _ loop: EventLoop, _ control: any JobControl
    ) async throws -> Copied
  {
    let byteCount = begun.image.source.byteCount
    let hashes = try await begun.parent?.openHashes(work: work)
    return try await closing(hashes.map { [$0.device] } ?? []) {
      var base: BackupSink.Base?
      if let hashes, let parent = begun.parent {
        base = .init(hashes: hashes.reader, name: parent.hashesName, changes: begun.changes)
      }
      let hashDevice = try await begun.stage.create(.hashes)
      return try await closing([hashDevice]) {
        let dataDevice = try await begun.stage.create(.data)
        return try await closing([dataDevice]) {
          let backing = begun.parent.map {
            Qcow2Image.BackingName(
              name: begun.repository.backingName($0.location), format: DiskFormat.qcow2.rawValue)
          }
          let target = try await makeImage(
            over: dataDevice, byteCount: byteCount, backing: backing,
            unit: base?.changes?.granularity, backup: begun.order.backup, name: names.data)
          return try await closing([target]) {
            try await copy(begun, to: target, hashDevice, over: base, names, loop, control)
          }
        }
      }
    }
  }

  nonisolated(nonsending)
    private func copy(
      _ begun: BegunBackup, to target: Qcow2Image, _ hashDevice: any BlockDevice, over base: BackupSink.Base?,
      _ names: (data: String, hashes: String), _ loop: EventLoop, _ control: any JobControl
    ) async throws -> Copied
  {
    let (source, order, name) = (begun.image.source, begun.order, begun.image.name)
    let hashes = try await tellingAboutHashes(names.hashes) {
      try await HashTreeWriter(
        HashTree(byteCount: source.byteCount), over: base?.hashes, to: hashDevice, work: work)
    }
    // A full has nothing below it that zeroes would have to hide.
    let writer = TargetWriter(target, name: names.data, zeroes: base == nil ? .leave : .write, control: control)
    let sink = BackupSink(source: name, hashes: hashes, hashesName: names.hashes, over: base, target: writer)
    var regions: RangeRegions?
    if let base, let changes = base.changes {
      try await checkSample(begun, over: base, control)
      regions = RangeRegions(
        wholeGrains(changes, byteCount: source.byteCount), of: source, byteCount: source.byteCount)
    }
    try await run(
      from: source, byteCount: source.byteCount, regions: regions, to: sink,
      compressors: order.compression == .zstd ? compressors : nil,
      pace: begun.image.pace(within: order.guestLatencyBudget, control: control), loop, control,
      finished: { [image = begun.image] in image.release($0) }
    ) { DomainError($0, of: name) }
    let root = try await tellingAboutHashes(names.hashes) {
      let root = try await hashes.finish(backup: order.backup) { try await control.checkpoint() }
      try await hashDevice.flush()
      try await hashDevice.close()
      return root
    }
    try await telling(about: names.data) {
      try await target.flush()
      try await target.close()
    }
    return Copied(root: root, changedByteCount: sink.changedByteCount, byteCount: source.byteCount)
  }

  /// A new qcow2 image for `byteCount` bytes of a guest: its size is a multiple of 512, as the format wants it.
  /// - Parameters:
  ///   - unit: the least that is written of a cluster, if that isn't all of it.
  ///   - backup: whose data it will hold, if it is one's.
  nonisolated(nonsending)
    func makeImage(
      over device: any BlockDevice, byteCount: UInt64, backing: Qcow2Image.BackingName? = nil, unit: UInt64? = nil,
      backup: BackupID? = nil, name: String
    ) async throws -> Qcow2Image
  {
    try await telling(about: name) {
      let options = Qcow2Image.CreateOptions(
        virtualByteCount: Qcow2Image.byteCount(holding: byteCount), clusterByteCount: ChunkGeometry.standard.cluster,
        compressionType: .zstd, backing: backing,
        hasSubclusters: (unit ?? .max) < UInt64(ChunkGeometry.standard.cluster), identity: backup?.ulid.bits)
      try await Qcow2Image.create(on: device, options: options)
      return try await Qcow2Image.open(
        device, options: .init(isReadOnly: false),
        backing: backing == nil ? .none : .device(UnreadBase(byteCount: options.virtualByteCount)), work: work,
        pool: pool)
    }
  }

  /// Runs a copy on the loop that everything in it belongs to.
  /// - Parameter finished: told of each step whose bytes won't be read again.
  nonisolated(nonsending)
    func run(
      from source: any BlockDevice, byteCount: UInt64, regions: (any Regions)? = nil, to sink: any CopySink,
      compressors: CompressorShelf? = nil, pace: (any CopyPace)? = nil,
      _ loop: EventLoop, _ control: any JobControl, finished: @escaping @Sendable (ByteRange) -> Void = { _ in },
      _ describe: @escaping @Sendable (BlockError) -> DomainError
    ) async throws
  {
    // The sink is confined to the loop, as its caller is, which leaves it alone meanwhile.
    nonisolated(unsafe) let sink = sink
    let copy = CopyLoop(
      on: loop, from: source, byteCount: byteCount, regions: regions, to: sink, compressors: compressors, pace: pace,
      work: work,
      control: control, finished: finished, describe: describe)
    try await copy.run()
  }

  /// A writer that doesn't honour image locks is found by what it leaves behind.
  nonisolated(nonsending)
    private func checkUnchanged(_ image: OpenImage, _ loop: EventLoop) async throws
  {
    let now = try await loop.blocking(about: image.name) {
      try image.requireInPlace()
      return try image.currentGeneration()
    }
    guard now == image.generation else {
      throw DomainError(
        .imageInUse, "\(image.name) was changed while it was backed up: the backup would be of no one point in time",
        remedy: "stop whoever writes to it, then start the backup again")
    }
  }
}
