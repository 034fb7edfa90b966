import BlockCore

/// Check and repair of an open image (Check/).
extension Qcow2Image {
  /// Walks all tables and compares refcounts with references. The image must be at rest: nothing writes meanwhile.
  ///
  /// A writable image is brought to its file first. An error says that the walk couldn't be done; what is wrong with
  /// the image is in the report.
  /// - Parameter progress: told at each table what part of the walk is done, from 0 to 1; ends it with what it throws.
  package func check(_ progress: @escaping CheckProgress = { _ in }) async throws(BlockError) -> Qcow2CheckReport {
    try checkUsable(.read)
    if !isReadOnly { try await map.settle() }
    let walk = MetadataWalk(file: file, header: header.value, refcountTable: refcounts.table, progress: progress)
    return try await walk.run()
  }

  /// Bytes of the image's own file.
  package var fileByteCount: UInt64 { file.byteCount }

  /// Lowers the refcounts of clusters that nothing uses, so that their storage is used again. Waits until the image
  /// is at rest. Safe whenever it is cut off.
  ///
  /// - Parameter progress: as ``check(_:)`` has it.
  /// - Returns: what is wrong afterwards. Where the check finds corruption that leaks can't be told apart from,
  ///   nothing is changed, and the report says so by its findings.
  package func repairLeaks(_ progress: @escaping CheckProgress = { _ in }) async throws(BlockError) -> Qcow2CheckReport
  {
    try await repair(.leaks, progress)
  }

  /// Puts all refcounts right that contradict the tables, with the COPIED flags that follow from them, and adds
  /// refcount blocks where they are missing. Waits until the image is at rest. Safe whenever it is cut off.
  ///
  /// Clusters that two entries name are shared afterwards: each is copied before it is written. What they hold is for
  /// the person to look at.
  ///
  /// - Returns: what is wrong afterwards. Where a table itself is damaged, or names metadata as guest data, nothing is
  ///   changed, and the report says so by its findings.
  package func repairRefcounts() async throws(BlockError) -> Qcow2CheckReport {
    try await repair(.allCounts) { _ in }
  }

  private func repair(
    _ extent: RefcountRepair.Extent, _ progress: @escaping CheckProgress
  ) async throws(BlockError) -> Qcow2CheckReport {
    try checkUsable(.write)
    try await prepareToChange(.write)
    let rest = await rest()
    defer { end(rest) }
    try checkUsable(.write)
    return try await RefcountRepair(map: map, progress: progress).run(extent)
  }
}

extension Qcow2Error {
  func asBlockError(_ operation: BlockError.Operation) -> BlockError {
    switch self {
    case .device(let error): error
    case .damaged(let place): BlockError(.corrupt(place), operation)
    default: BlockError(.corrupt("\(self)"), operation)
    }
  }
}
