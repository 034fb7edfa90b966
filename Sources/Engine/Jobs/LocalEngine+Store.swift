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
      try await closing([begun.image.device]) {
        let result: Result<BackupReceipt, any Error>
        do { result = .success(try await fill(begun, loop, control)) } catch { result = .failure(error) }
        if case .failure(let error) = result {
          if (error as? DomainError)?.code == .trackingLost { await giveUpTracking(begun, on: loop, control) }
          for text in await begun.stage.discard() {
            control.log(.warning, "a leftover couldn't be removed, recovery will try again: \(text)")
          }
        }
        await begun.lease.giveBack()
        return try result.get()
      }
    }
  }

  /// Copies the image into its stage, and publishes it.
  nonisolated(nonsending)
    private func fill(
      _ begun: BegunBackup, _ loop: EventLoop, _ control: any JobControl
    ) async throws -> BackupReceipt
  {
    let (repository, stage, image, order, plan) = (begun.repository, begun.stage, begun.image, begun.order, begun.plan)
    let names = (data: repository.name(of: .data, stage.backup), hashes: repository.name(of: .hashes, stage.backup))
    let copied = try await copy(begun, names, loop, control)
    try await checkUnchanged(image, loop)
    try await control.checkpoint()
    let checkpoint = newCheckpoint(begun)
    var manifest = Manifest(
      order: order, plan: plan, consistency: .offline, createdAt: order.backup.ulid.date, finishedAt: clock.now(),
      virtualSize: image.device.byteCount, dirtyBytes: copied.changedByteCount, merkleRoot: copied.root)
    if let checkpoint {
      (manifest.checkpoint, manifest.marks) = (checkpoint.id, checkpoint.marks)
      manifest.granularity = Int(StoredTracker.granularity)
    }
    let storedSize = try await stage.publish(manifest)
    control.log(.info, "the backup is complete: \(repository.name(of: stage.backup))")
    if let checkpoint { await set(checkpoint, after: begun, on: loop, control) }
    return BackupReceipt(
      pointInTime: manifest.pointInTime, finishedAt: manifest.finishedAt, virtualSize: manifest.virtualSize,
      dirtyBytes: manifest.dirtyBytes, storedSize: storedSize, merkleRoot: manifest.merkleRoot,
      consistency: manifest.consistency)
  }

  /// Writes data and hashes and closes them.
  nonisolated(nonsending)
    private func copy(
      _ begun: BegunBackup, _ names: (data: String, hashes: String), _ loop: EventLoop, _ control: any JobControl
    ) async throws -> (root: Digest, changedByteCount: UInt64)
  {
    let base = try await begun.parent?.openHashes(work: work)
    return try await closing(base.map { [$0.device] } ?? []) {
      let hashDevice = try await begun.stage.create(.hashes)
      return try await closing([hashDevice]) {
        let dataDevice = try await begun.stage.create(.data)
        return try await closing([dataDevice]) {
          let backing = begun.parent.map {
            Qcow2Image.BackingName(
              name: begun.repository.backingName($0.location), format: DiskFormat.qcow2.rawValue)
          }
          let target = try await makeImage(
            over: dataDevice, byteCount: begun.image.device.byteCount, backing: backing, name: names.data)
          return try await closing([target]) {
            let base = base.map { BackupSink.Base(hashes: $0.reader, name: begun.parent?.hashesName ?? "") }
            return try await copy(begun, to: target, hashDevice, over: base, names, loop, control)
          }
        }
      }
    }
  }

  nonisolated(nonsending)
    private func copy(
      _ begun: BegunBackup, to target: Qcow2Image, _ hashDevice: any BlockDevice, over base: BackupSink.Base?,
      _ names: (data: String, hashes: String), _ loop: EventLoop, _ control: any JobControl
    ) async throws -> (root: Digest, changedByteCount: UInt64)
  {
    let (image, order) = (begun.image, begun.order)
    let hashes = try await tellingAboutHashes(names.hashes) {
      try await HashTreeWriter(
        HashTree(byteCount: image.device.byteCount), over: base?.hashes, to: hashDevice, work: work)
    }
    // A full has nothing below it that zeroes would have to hide.
    let writer = TargetWriter(target, name: names.data, zeroes: base == nil ? .leave : .write, control: control)
    let sink = BackupSink(source: image.name, hashes: hashes, hashesName: names.hashes, over: base, target: writer)
    var regions: RangeRegions?
    if let base, let changed = try await changedRanges(begun, over: base) {
      try await checkSample(of: image, changed, over: base, control)
      regions = RangeRegions(changed, of: image.device, byteCount: image.device.byteCount)
    }
    try await run(
      from: image.device, byteCount: image.device.byteCount, regions: regions, to: sink,
      compressors: order.compression == .zstd ? compressors : nil, loop, control
    ) { DomainError($0, of: image.name) }
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
    return (root, sink.changedByteCount)
  }

  /// What a bitmap says is to be looked at, in whole grains: what changed since the backup that it counts from, and where
  /// that one differs from the parent. Nil: everything.
  nonisolated(nonsending)
    private func changedRanges(_ begun: BegunBackup, over base: BackupSink.Base) async throws -> [ByteRange]?
  {
    guard let tracked = begun.tracked, let parent = begun.parent else { return nil }
    var changes = tracked.changes
    if tracked.from.manifest.backup != parent.manifest.backup {
      let hashes = try await tracked.from.openHashes(work: work)
      try await closing([hashes.device]) {
        try await tellingAboutHashes(tracked.from.hashesName) {
          let end = max(hashes.reader.tree.leafCount, base.hashes.tree.leafCount)
          var next: UInt64 = 0
          while next < end, let run = try await hashes.reader.firstDifference(from: base.hashes, in: next..<end) {
            changes.set(
              ByteRange(
                run.lowerBound * UInt64(HashTree.grainByteCount)..<run.upperBound * UInt64(HashTree.grainByteCount)))
            next = run.upperBound
          }
        }
      }
    }
    let byteCount = begun.image.device.byteCount
    var ranges: [ByteRange] = []
    for dirty in changes.dirtyRanges {
      let whole = dirty.aligned(to: UInt64(ChunkGeometry.standard.unit))
      let range = ByteRange(whole.offset..<min(whole.end, byteCount))
      if let last = ranges.last, last.end >= range.offset {
        ranges[ranges.count - 1].length = max(last.end, range.end) - last.offset
      } else {
        ranges.append(range)
      }
    }
    return ranges
  }

  nonisolated(nonsending)
    private func checkSample(
      of image: OpenImage, _ changed: [ByteRange], over base: BackupSink.Base, _ control: any JobControl
    ) async throws
  {
    let check = SampledCheck(
      share: configuration.sampledCheck, source: image.device, base: base, changed: changed, work: work)
    let missed = try await telling(about: image.name) { try await check.firstMissed { try await control.checkpoint() } }
    guard let missed else { return }
    throw DomainError(
      .trackingLost, "\(image.name): its bitmap says nothing of a change of the bytes \(missed)",
      remedy: "start the backup again: it reads everything; find out what writes to the image without recording it")
  }

  /// A new qcow2 image for `byteCount` bytes of a guest: its size is a multiple of 512, as the format wants it.
  nonisolated(nonsending)
    func makeImage(
      over device: any BlockDevice, byteCount: UInt64, backing: Qcow2Image.BackingName? = nil, name: String
    ) async throws -> Qcow2Image
  {
    try await telling(about: name) {
      let options = Qcow2Image.CreateOptions(
        virtualByteCount: Qcow2Image.byteCount(holding: byteCount), clusterByteCount: ChunkGeometry.standard.cluster,
        compressionType: .zstd, backing: backing)
      try await Qcow2Image.create(on: device, options: options)
      return try await Qcow2Image.open(
        device, options: .init(isReadOnly: false),
        backing: backing == nil ? .none : .device(UnreadBase(byteCount: options.virtualByteCount)), work: work,
        pool: pool)
    }
  }

  /// Runs a copy on the loop that everything in it belongs to.
  nonisolated(nonsending)
    func run(
      from source: any BlockDevice, byteCount: UInt64, regions: (any Regions)? = nil, to sink: any CopySink,
      compressors: CompressorShelf? = nil,
      _ loop: EventLoop, _ control: any JobControl, _ describe: @escaping @Sendable (BlockError) -> DomainError
    ) async throws
  {
    // The sink is confined to the loop, as its caller is, which leaves it alone meanwhile.
    nonisolated(unsafe) let sink = sink
    let copy = CopyLoop(
      on: loop, from: source, byteCount: byteCount, regions: regions, to: sink, compressors: compressors, work: work,
      control: control,
      describe: describe)
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
