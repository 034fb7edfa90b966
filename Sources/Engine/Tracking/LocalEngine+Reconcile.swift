import Bitmaps
import BlockCore
import EventLoops
import Failures
import Model
import Qcow2

// What tracks the changes of an image at rest: told as it is, and put right. A repair changes nothing that a chain could
// use: what it removes or merges is named by the caller, who knows the chains, and what isn't consistent isn't merged.
extension LocalEngine {
  package func tracking(of image: ImageLocation) async throws -> ImageTracking {
    let sidecars = try await sidecarTrackers(of: image)
    guard image.format == .qcow2, case .file(let path) = image.source else { return ImageTracking(sidecars: sidecars) }
    var found = try await onLoop(in: .folder(of: path)) { [self] loop in
      let use = ImageUse(.request("a look at its tracking"), needs: .rest, isPassing: true)
      let opened = try await opener(on: loop).open(image, for: use)
      return try await closing([opened.device]) {
        try await telling(about: opened.name) { try await tracking(of: opened, on: loop) }
      }
    }
    found.sidecars = sidecars
    return found
  }

  nonisolated(nonsending)
    private func tracking(of image: OpenImage, on loop: EventLoop) async throws -> ImageTracking
  {
    guard let qcow2 = image.format.qcow2, qcow2.canCarryBitmaps else { return ImageTracking() }
    let stored = try await qcow2.bitmaps()
    let ours = stored.entries.filter { $0.nameBytes != CrashRecord.witnessName }
    let awaitsRecovery = try await awaitsRecovery(image, on: loop)
    let hasWitness = stored.areTrusted && ours.count < stored.entries.count
    let left = try await leftRecords(of: image, isRecovered: !awaitsRecovery, on: loop)
    return ImageTracking(
      bitmaps: ours.map { entry in
        ImageTracking.Bitmap(
          name: BitmapName(entry.nameBytes), isEnabled: entry.isAuto, flaw: Self.flaw(of: entry, in: stored))
      }, isMarked: hasWitness || qcow2.trackingMark != nil, awaitsRecovery: awaitsRecovery, leftRecordCount: left.count)
  }

  private static func flaw(of entry: BitmapEntry, in stored: StoredBitmaps) -> String? {
    if !stored.areTrusted { return "a program changed the image that keeps no bitmaps" }
    if !entry.isUnderstood { return "it has parts that only its maker knows" }
    return entry.isInUse ? "the last program that recorded it didn't close the image" : nil
  }

  /// Those that say that they are of the image's file, but for the one that is to be recovered from.
  nonisolated(nonsending)
    private func leftRecords(of image: OpenImage, isRecovered: Bool, on loop: EventLoop) async throws -> [LeftRecord]
  {
    guard let records, let file = image.files.first else { return [] }
    let all = try await records.records(of: Sidecar.FileNumber(file.status), on: loop)
    let used = isRecovered ? nil : image.format.qcow2?.lastTrackingMark?.sidecar
    return all.filter { $0.id != used }
  }

  // MARK: Putting right

  package func repairTracking(_ repair: TrackingRepair) async throws {
    try await onLoop(in: .folder(of: repair.image.source.place)) { [self] loop in
      // Opening it recovers what can be.
      let graph = try await opener(on: loop).openToWrite(
        repair.image, tracking: .unchanged(because: "only bitmaps are put right"),
        for: ImageUse(.job("reconcile", repair.job), needs: .alone))
      note(graph)
      try await closing([graph.slot]) {
        guard let qcow2 = graph.image.format.qcow2, qcow2.canCarryBitmaps else { return }
        try await telling(about: graph.name) {
          try await apply(repair, to: qcow2)
          // Durable only then.
          try await graph.slot.flush()
          if repair.removesLeftRecords { try await removeLeftRecords(of: graph.image, on: loop) }
          try await graph.slot.close()
        }
      }
    }
  }

  nonisolated(nonsending)
    private func apply(_ repair: TrackingRepair, to image: Qcow2Image) async throws
  {
    let stored = try await image.bitmaps()
    guard stored.areTrusted else { return }
    var changes: [BitmapChange] = []
    var gone = Set(repair.removals.map(\.bytes))
    for merge in repair.merges {
      guard let source = stored.entry(named: merge.source.bytes), let target = stored.entry(named: merge.target.bytes),
        [source, target].allSatisfy({ $0.isUnderstood && !$0.isInUse })
      else { continue }
      var sum = try await image.load(target)
      sum.formUnion(try await image.load(source))
      gone.insert(merge.source.bytes)
      changes.append(
        .store(
          BitmapToStore(
            name: merge.target.bytes, isAuto: true, bitmap: sum, clusterByteCount: image.clusterByteCount)))
    }
    let isRecorded = stored.entries.contains {
      $0.isAuto && $0.nameBytes != CrashRecord.witnessName && !gone.contains($0.nameBytes)
    }
    let takesMarksOut = repair.takesMarksOut && !isRecorded
    if takesMarksOut { gone.insert(CrashRecord.witnessName) }
    changes = stored.entries.filter { gone.contains($0.nameBytes) }.map { .remove(name: $0.nameBytes) } + changes
    if !changes.isEmpty { try await image.changeBitmaps(changes) }
    if takesMarksOut, image.trackingMark != nil { try await image.removeTrackingMark() }
  }

  nonisolated(nonsending)
    private func removeLeftRecords(of image: OpenImage, on loop: EventLoop) async throws
  {
    guard let records else { return }
    for record in try await leftRecords(of: image, isRecovered: true, on: loop) {
      await records.files(record.id, on: loop).removeAll(record.sequences)
    }
  }
}
