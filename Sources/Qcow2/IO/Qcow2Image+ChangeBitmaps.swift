import BlockCore
import Buffers

/// Changing the bitmaps of an image that was opened with ``BitmapPolicy/keep``. ``BitmapsOnDisk`` says in which order.
extension Qcow2Image {
  /// Marks bitmaps in use that the caller records from now on, in one durable step. Until they are stored again they
  /// are inconsistent to everybody else. Comes before the first write: while the image has an enabled, consistent
  /// bitmap that is in neither set, changes of the guest's disk are refused.
  ///
  /// - Parameters:
  ///   - names: of bitmaps that are understood and consistent, or that the caller holds already.
  ///   - exempt: names of bitmaps that stay consistent and enabled though they don't record what we write. They are
  ///     the caller's own, and it knows what they mean.
  package func markBitmapsInUse(
    _ names: Set<[UInt8]>, leaving exempt: Set<[UInt8]> = []
  ) async throws(BlockError) {
    let disk = try await bitmapsToChange()
    let hold = await bitmapTurn.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { bitmapTurn.release(hold) }
    try checkUsable(.write)
    for name in names { try disk.checkOwn(name) }
    try await disk.markInUse(names, leaving: exempt)
  }

  /// Makes the caller the holder of bitmaps that a killed program left in use: it knows what they missed, and stores
  /// them. The image's mark, which told it so, counts until it is changed or removed. Comes before every change of the
  /// image.
  package func adoptBitmaps(_ names: Set<[UInt8]>) async throws(BlockError) {
    keepsTrackingMark = true
    let disk = try await bitmapsToChange()
    let hold = await bitmapTurn.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { bitmapTurn.release(hold) }
    disk.adopt(names)
  }

  /// Makes all these changes of the image's bitmaps in one durable step: whatever is cut off or fails, all or none.
  ///
  /// A bitmap that is stored enabled and not in use is complete: so nothing writes to the image from the moment whose
  /// bits are given, and afterwards changes are refused until it is marked in use again.
  ///
  /// - Throws: what the sources throw; `noSpace`, with the bitmaps as they were and the image as usable as before;
  ///   `notSupported` for what isn't there, isn't understood, isn't the caller's, or passes the format's limits.
  package func changeBitmaps(_ changes: [BitmapChange]) async throws(BlockError) {
    let disk = try await bitmapsToChange()
    let hold = await bitmapTurn.acquire(ByteRange(offset: 0, length: 1), .exclusive)
    defer { bitmapTurn.release(hold) }
    guard disk.leavesUnrecorded(changes) else { return try await change(disk, changes) }
    let all = await ranges.acquire(ByteRange(offset: 0, length: .max), .exclusive)
    defer { ranges.release(all) }
    try await change(disk, changes)
  }

  private func change(_ disk: BitmapsOnDisk, _ changes: [BitmapChange]) async throws(BlockError) {
    try checkUsable(.write)
    var writer = BitmapWriter(file: file, refcounts: refcounts)
    do throws(BlockError) {
      var new = disk.areTrusted ? disk.bitmaps : []
      var names: Set<[UInt8]> = []
      for each in changes {
        switch each {
        case .remove(let name):
          guard let index = new.firstIndex(of: name) else { throw BlockError.noBitmap(name) }
          new.remove(at: index)
        case .setAuto(let name, let isAuto):
          if !names.contains(name) { try disk.checkOwn(name) }
          guard let index = new.firstIndex(of: name) else { throw BlockError.noBitmap(name) }
          new[index].entry.isAuto = isAuto
        case .store(let source):
          let index = new.firstIndex(of: source.name)
          if index != nil, !names.contains(source.name) { try disk.checkOwn(source.name) }
          let stored = try await writer.write(source, try geometry(of: source))
          if let index { new[index] = stored } else { new.append(stored) }
          names.insert(source.name)
        }
      }
      try await disk.replace(with: new, storing: names, &writer)
    } catch {
      await writer.giveBack()
      throw error
    }
  }

  /// The geometry of a bitmap that is to be stored, if the format and QEMU allow such.
  private func geometry(of source: any BitmapSource) throws(BlockError) -> BitmapGeometry {
    let granularity = source.granularityByteCount
    guard granularity.nonzeroBitCount == 1, BitmapEntry.granularityBits.contains(granularity.trailingZeroBitCount),
      (1...BitmapEntry.maximumNameByteCount).contains(source.name.count)
    else {
      throw BlockError(
        .notSupported, .write,
        cause: "a bitmap with a granularity of \(granularity) and a name of \(source.name.count) bytes")
    }
    let geometry = BitmapGeometry(header.value, granularityByteCount: granularity)
    guard geometry.clusterCount > 0,
      UInt64(geometry.clusterCount) * file.clusterByteCount <= BitmapEntry.maximumBitmapByteCount
    else {
      throw BlockError(
        .notSupported, .write, cause: "a bitmap of \(geometry.bitCount) bits, which the format doesn't allow")
    }
    return geometry
  }

  private func bitmapsToChange() async throws(BlockError) -> BitmapsOnDisk {
    try checkUsable(.write)
    guard let disk = bitmapsOnDisk, header.value.version >= 3 else {
      throw BlockError(
        .notSupported, .write, cause: "the image's bitmaps can't be changed: it wasn't opened to keep any")
    }
    try await prepareToChange(.write)
    return disk
  }
}

extension BitmapsOnDisk {
  /// Throws unless the bitmap is one that the caller may change.
  fileprivate func checkOwn(_ name: [UInt8]) throws(BlockError) {
    guard let entry = bitmap(named: name)?.entry, areTrusted else { throw .noBitmap(name) }
    // A table of another length than the disk's isn't in the way: storing the bitmap puts it right.
    guard entry.isUnderstood, entry.limitDamage(of: header.value) == nil else {
      let damage = entry.damage(of: header.value) ?? ""
      throw BlockError(.notSupported, .write, cause: "bitmap \(entry.shortName): \(damage)")
    }
    guard !entry.isInUse || held.contains(name) else {
      throw BlockError(.notSupported, .write, cause: "bitmap \(entry.shortName) is inconsistent")
    }
  }

  /// True if a change leaves a bitmap that every write would make wrong.
  fileprivate func leavesUnrecorded(_ changes: [BitmapChange]) -> Bool {
    changes.contains { change in
      switch change {
      case .store(let source): source.isAuto && !source.isInUse && !exempt.contains(source.name)
      case .setAuto(let name, let isAuto): isAuto && !exempt.contains(name)
      case .remove: false
      }
    }
  }
}

extension [AllocatedBitmap] {
  fileprivate func firstIndex(of name: [UInt8]) -> Int? { firstIndex { $0.entry.nameBytes == name } }
}

extension BlockError {
  fileprivate static func noBitmap(_ name: [UInt8]) -> BlockError {
    BlockError(.notSupported, .write, cause: "the image has no bitmap \(BitmapEntry.shortName(name)) to be changed")
  }
}
