import EventLoops
import Failures
import Model
import Repositories

extension LocalEngine {
  /// How deep beneath an image folder, and at how many names in all, leftovers are looked for.
  private static let maximumDepth = 8
  private static let maximumNameCount = 200_000

  /// Removes work files that restores of this server left beside their targets when it was killed; for the start.
  /// Returns their paths within the image folders.
  package func removeRestoreLeftovers(liveJobs: Set<JobID>) async throws -> [String] {
    try await onLoop(in: .folder("leftovers of restores")) { [self] loop in
      try await loop.blocking(about: "the image folders") { [self] in
        try imageFolders.openAll().flatMap { _, folder in
          try removeLeftovers(configuration.openFiles(folder)) { liveJobs.contains($0) || calls.isLive($0) }
        }
      }
    }
  }

  /// Blocks. Folders that can't be read are passed over: nothing was restored to them.
  private func removeLeftovers(
    _ files: any FolderFiles, isLive: (JobID) -> Bool
  ) throws(SystemError) -> [String] {
    var removed: [String] = []
    var nameCount = 0
    var folders = [(path: ".", depth: 0)]
    while let (folder, depth) = folders.popLast(), nameCount < Self.maximumNameCount {
      guard let entries = try? files.entries(of: folder, limit: Self.maximumNameCount - nameCount) else { continue }
      nameCount += entries.count
      for entry in entries {
        let path = folder == "." ? entry.name : "\(folder)/\(entry.name)"
        if entry.kind == .folder, depth < Self.maximumDepth { folders.append((path, depth + 1)) }
        guard entry.kind == .file, let part = PartFileName(entry.name), part.target == Self.restoreWorkName,
          part.writer == configuration.writer, !isLive(part.job)
        else { continue }
        if try files.removeIfPresent(path) { removed.append(path) }
      }
    }
    return removed
  }
}
