import Model

/// What is asked of images and their bitmaps.
extension ScriptedEngine {
  package func suggestFormat(of source: ImageSource) async throws -> FormatSuggestion {
    try note(.suggestFormat(source)).suggestFormat(source)
  }

  package func inspect(_ image: ImageLocation) async throws -> ImageInspection {
    try await arrive(.inspect(image)).inspect(image)
  }

  package func resolveTarget(_ path: String) async throws -> String {
    try note(.resolveTarget(path)).resolveTarget(path)
  }

  package func identities(of sources: [ImageSource]) async throws -> [FileIdentity?] {
    let script = try await arrive(.identities(sources))
    return sources.map { script.identity($0) }
  }

  package func extents(
    of image: ImageLocation, offset: UInt64, length: UInt64?, limit: Int
  ) async throws -> ExtentPage {
    try note(.extents(image, offset: offset, length: length, limit: limit)).extents(image, offset, length, limit)
  }

  package func extents(ofBackup backup: StoredBackupLocation, _ query: StoredExtentQuery) async throws -> ExtentPage {
    try note(.storedExtents(backup, query)).storedExtents(query)
  }

  package func differences(
    _ backup: StoredBackupLocation, from other: StoredBackupLocation, _ query: StoredExtentQuery
  ) async throws -> DifferencePage {
    try note(.differences(backup, from: other, query)).differences(query)
  }

  package func bitmaps(of image: BitmapImage, after name: BitmapName?, limit: Int) async throws -> [BitmapRecord] {
    let all = try await arrive(.bitmaps(image)).bitmaps(image)
    return Array(
      all.drop { record in name.map { !$0.bytes.lexicographicallyPrecedes(record.name.bytes) } ?? false }
        .prefix(limit))
  }

  package func bitmap(_ name: BitmapName, of image: BitmapImage) async throws -> BitmapRecord {
    let all = try await arrive(.bitmap(name, image)).bitmaps(image)
    guard let record = all.first(where: { $0.name == name }) else {
      throw DomainError(.notFound, "there is no bitmap \(name.quoted)")
    }
    return record
  }

  package func change(_ order: BitmapOrder) async throws -> [BitmapRecord?] {
    try await arrive(.changeBitmaps(order)).changeBitmaps(order)
  }

  package func extents(
    of bitmap: BitmapName, of image: BitmapImage, _ query: StoredExtentQuery
  ) async throws -> DirtyExtentPage {
    try await arrive(.dirtyExtents(bitmap, image, query)).dirtyExtents(query)
  }

  package func bits(of bitmap: BitmapName, of image: BitmapImage) async throws -> BitmapBits {
    try await arrive(.bits(bitmap, image)).bits(bitmap)
  }

  package func tracking(of image: ImageLocation) async throws -> ImageTracking {
    try await arrive(.tracking(image)).tracking(image)
  }

  package func repairTracking(_ repair: TrackingRepair) async throws {
    try await arrive(.repairTracking(repair)).repairTracking(repair)
  }

  package func removeTracking(from image: ImageLocation, tracker: TrackerName?) async -> TrackingRemoval {
    let script = note(.removeTracking(image, tracker))
    try? await script.storage(.removeTracking(image, tracker))
    return script.removeTracking(image, tracker)
  }
}

extension ScriptedEngine.Script {
  package static func bitmap(_ name: BitmapName = BitmapName("b0"), isRecording: Bool = true) -> BitmapRecord {
    BitmapRecord(
      name: name, granularity: 65536, state: isRecording ? .recording : .disabled, isRecording: isRecording,
      dirtyBytes: 65536, virtualSize: 1 << 20)
  }
}
