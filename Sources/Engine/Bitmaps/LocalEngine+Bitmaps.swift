import Bitmaps
import BlockCore
import EventLoops
import Failures
import Model

/// What is told of the bitmaps of an image.
extension LocalEngine {
  package func bitmaps(of image: BitmapImage, after name: BitmapName?, limit: Int) async throws -> [BitmapRecord] {
    do {
      return try await reading(image) { [self] place, set in
        let later = set.bitmaps.filter { name == nil || name!.bytes.lexicographicallyPrecedes($0.name) }
        let page = later.sorted { $0.name.lexicographicallyPrecedes($1.name) }.prefix(limit)
        var records: [BitmapRecord] = []
        for bitmap in page { records.append(try await record(bitmap, at: place, byteCount: set.byteCount)) }
        return records
      }
    } catch let error as DomainError where error == Self.withoutBitmaps(image) {
      return []
    }
  }

  package func bitmap(_ name: BitmapName, of image: BitmapImage) async throws -> BitmapRecord {
    try await reading(name, of: image) { [self] place, set, bitmap in
      try await record(bitmap, at: place, byteCount: set.byteCount)
    }
  }

  package func extents(
    of name: BitmapName, of image: BitmapImage, _ query: StoredExtentQuery
  ) async throws -> DirtyExtentPage {
    try await reading(name, of: image) { place, set, bitmap in
      let generation = place.generation(of: bitmap).token
      if let flaw = bitmap.flaw { throw DomainError(flaw, "bitmap \(name.quoted) of image '\(image.name)'") }
      return try await place.loaded(bitmap).page(query, generation)
    }
  }

  // MARK: Reading

  /// How often a read is begun anew because the image was detached meanwhile.
  private static let readAttempts = 8

  private func reading<Result: Sendable>(
    _ image: BitmapImage, _ body: @Sendable @escaping (BitmapPlace, BitmapSet) async throws -> Result
  ) async throws -> Result {
    for _ in 0..<Self.readAttempts {
      let place = try await place(image, isChanged: false)
      let result: Swift.Result<Result, any Error>
      do {
        result = .success(
          try await onLoop(place.loop, in: .folder(of: image.location.source.place)) { _ in
            try await body(place, try await place.set(loading: []))
          })
      } catch {
        result = .failure(error)
      }
      await leave(place)
      do {
        return try result.get()
      } catch let error as BlockError where error.kind == .closed && place.live != nil {
        continue
      } catch {
        throw error is CancellationError ? error : DomainError(any: error, of: place.name)
      }
    }
    throw DomainError(
      .imageInUse, "\(image.location.source.place) is attached and detached all the time",
      remedy: "ask again when it rests")
  }

  func reading<Result: Sendable>(
    _ name: BitmapName, of image: BitmapImage,
    _ body: @Sendable @escaping (BitmapPlace, BitmapSet, BitmapSet.Bitmap) async throws -> Result
  ) async throws -> Result {
    try await reading(image) { place, set in
      guard let bitmap = set[name.bytes] else {
        throw DomainError(
          .notFound, "there is no bitmap \(name.quoted) of image '\(image.name)'",
          remedy: "list the image's bitmaps for their names")
      }
      return try await body(place, set, bitmap)
    }
  }

  nonisolated(nonsending)
    private func record(
      _ bitmap: BitmapSet.Bitmap, at place: BitmapPlace, byteCount: UInt64
    ) async throws -> BitmapRecord
  {
    let bits = bitmap.flaw == nil ? try await place.loaded(bitmap) : nil
    return record(bitmap, bits, of: place.image, byteCount: byteCount)
  }

  /// - Parameter bits: nil for one that can't be read.
  func record(
    _ bitmap: BitmapSet.Bitmap, _ bits: DirtyBitmap?, of image: BitmapImage, byteCount: UInt64
  ) -> BitmapRecord {
    let exports = exports(of: image, showing: bitmap.name)
    let state: BitmapRecord.State =
      switch bitmap.flaw {
      case .orphaned: .orphaned
      case .inconsistent, .foreign: .inconsistent
      case nil where !exports.isEmpty: .busy
      case nil: bitmap.isRecording ? .recording : .disabled
      }
    return BitmapRecord(
      name: BitmapName(bitmap.name), granularity: bitmap.granularity, state: state, isRecording: bitmap.isRecording,
      isPersistent: bitmap.isPersistent, dirtyBytes: bits?.dirtyByteCount,
      owner: TrackerBitmapName(bitmap.name).map { name in
        let isSet = name.checkpoint != TrackerBitmapName.noCheckpoint
        return BitmapRecord.Owner(tracker: name.tracker, checkpoint: isSet ? name.checkpoint : nil)
      },
      exports: exports, virtualSize: byteCount)
  }

  /// The exports that show a bitmap to clients.
  func exports(of image: BitmapImage, showing bitmap: [UInt8]) -> [ResourceName] {
    servedExports.names(showing: BitmapName(bitmap), of: image)
  }
}

extension DirtyBitmap {
  /// The dirty and the clean stretches of a page, which follow one another.
  func page(_ query: StoredExtentQuery, _ generation: String) throws(DomainError) -> DirtyExtentPage {
    guard query.offset <= byteCount, query.limit > 0 else {
      throw DomainError(.invalidParameter, "the offset \(query.offset) is past the disk's \(byteCount) bytes")
    }
    let end = query.length.map { $0 < byteCount - query.offset ? query.offset + $0 : byteCount } ?? byteCount
    var items: [DirtyExtentPage.Item] = []
    var position = query.offset
    forEachStretch(in: ByteRange(query.offset..<end), limit: query.limit) { stretch, isDirty in
      items.append(DirtyExtentPage.Item(offset: stretch.offset, length: stretch.length, dirty: isDirty))
      position = stretch.end
    }
    return DirtyExtentPage(items: items, nextOffset: position < end ? position : nil, generation: generation)
  }

  /// Tells the dirty and the clean stretches of a range, which follow one another, `limit` at most. What lies beyond the
  /// disk is dirty: nothing is known of it.
  func forEachStretch(in range: ByteRange, limit: Int, _ body: (ByteRange, _ isDirty: Bool) -> Void) {
    var position = range.offset
    var count = 0
    while position < range.end, count < limit {
      let dirty = position < byteCount ? nextDirty(from: position) : ByteRange(position..<range.end)
      let isDirty = dirty?.offset == position
      let next = min(range.end, isDirty ? dirty?.end ?? range.end : dirty?.offset ?? max(position + 1, byteCount))
      body(ByteRange(position..<next), isDirty)
      position = next
      count += 1
    }
  }
}
