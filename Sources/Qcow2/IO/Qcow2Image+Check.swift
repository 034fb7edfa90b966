import BlockCore

extension Qcow2Image {
  /// Walks all tables and compares refcounts with references. The image must be at rest: nothing writes meanwhile.
  ///
  /// A writable image is brought to its file first. An error says that the walk couldn't be done; what is wrong with
  /// the image is in the report.
  nonisolated(nonsending)
    package func check() async throws(BlockError) -> CheckReport
  {
    try checkUsable(.read)
    if !isReadOnly { try await map.settle() }
    return try await MetadataWalk(file: file, header: header.value, refcountTable: refcounts.table).run()
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
