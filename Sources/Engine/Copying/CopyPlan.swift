import BlockCore

/// One step of a copy: it begins at a unit of the copy's geometry, and ends at one or at the disk's end.
package struct CopyStep: Hashable, Sendable {
  package enum Action: Hashable, Sendable {
    /// Read, hash and store: at most a chunk, within one chunk's place.
    case copy
    /// Reads as zeroes for certain; of any length.
    case zero
    /// Left as the target has it; of any length.
    case skip
  }

  package var range: ByteRange
  package var action: Action

  package init(range: ByteRange, action: Action) {
    self.range = range
    self.action = action
  }
}

/// Makes steps of regions: neighbours that call for the same are joined, and a unit of several kinds is copied whole.
package struct CopyPlan {
  private let geometry: ChunkGeometry
  private let byteCount: UInt64
  private var regions: any Regions
  /// What is left of the region that was asked for last.
  private var region: Region?
  /// The step that may go on.
  private var pending: CopyStep?

  /// - Parameter byteCount: the disk's size.
  package init(_ regions: any Regions, byteCount: UInt64, geometry: ChunkGeometry = .standard) {
    self.regions = regions
    self.byteCount = byteCount
    self.geometry = geometry
  }

  /// The next step; nil at the end.
  /// - Parameter checkpoint: called before each question to the regions' source.
  nonisolated(nonsending)
    package mutating func next(_ checkpoint: () async throws -> Void) async throws -> CopyStep?
  {
    while true {
      if let cut = cutPending() { return cut }
      guard let next = try await stretch(checkpoint) else {
        defer { pending = nil }
        return pending
      }
      guard let last = pending else {
        pending = next
        continue
      }
      if last.action == next.action, last.range.end == next.range.offset {
        pending?.range.length += next.range.length
      } else {
        pending = next
        return last
      }
    }
  }

  /// The pending step's part up to the end of its chunk's place, if it is to be read and reaches that far.
  private mutating func cutPending() -> CopyStep? {
    guard var step = pending, step.action == .copy else { return nil }
    let chunk = UInt64(geometry.chunk)
    let end = (step.range.offset / chunk + 1) * chunk
    guard step.range.end >= end else { return nil }
    let rest = ByteRange(end..<step.range.end)
    pending = rest.isEmpty ? nil : CopyStep(range: rest, action: .copy)
    step.range = ByteRange(step.range.offset..<end)
    return step
  }

  /// The next units that call for the same.
  nonisolated(nonsending)
    private mutating func stretch(_ checkpoint: () async throws -> Void) async throws -> CopyStep?
  {
    guard let first = try await current(checkpoint) else { return nil }
    let (start, unit) = (first.range.offset, UInt64(geometry.unit))
    precondition(start % unit == 0, "a region begins within a unit, at \(start)")
    let whole = first.range.end >= byteCount ? byteCount : first.range.end / unit * unit
    if whole > start {
      pass(to: whole)
      return CopyStep(range: ByteRange(start..<whole), action: Self.action(for: [first.content]))
    }
    // The unit is shared with the regions that follow.
    let end = min(start + unit, byteCount)
    var (position, contents) = (start, Set<Region.Content>())
    while position < end, let next = try await current(checkpoint), next.range.offset == position {
      contents.insert(next.content)
      position = min(next.range.end, end)
      pass(to: position)
    }
    if position < end { contents.insert(.data) }
    return CopyStep(range: ByteRange(start..<end), action: Self.action(for: contents))
  }

  private static func action(for contents: Set<Region.Content>) -> CopyStep.Action {
    switch contents {
    case [.zeroes]: .zero
    case [.unchanged]: .skip
    default: .copy
    }
  }

  nonisolated(nonsending)
    private mutating func current(_ checkpoint: () async throws -> Void) async throws -> Region?
  {
    while region?.range.isEmpty ?? true {
      guard let next = try await regions.next(checkpoint) else { return nil }
      region = next
    }
    return region
  }

  private mutating func pass(to position: UInt64) {
    guard let end = region?.range.end else { return }
    region?.range = ByteRange(position..<max(end, position))
  }
}
