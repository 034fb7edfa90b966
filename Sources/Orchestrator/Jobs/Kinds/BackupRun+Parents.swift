import Model

extension BackupRun {
  /// What the backup builds on, or counts from, is damaged: finds out which of it is, from the full up, and marks that.
  func judgeParents(of backup: BackupID) async {
    do {
      for id in try context.transactions.read({ try $0.parentsToJudge(of: backup) }) {
        let verification = try await Verification.of(id, .metadata, isInChain: true, context)
        guard !verification.isSound else { continue }
        let job = context.job.id
        try await context.transactions.persistently {
          try await context.transactions.write { try $0.record(verification, job: job) }
        }
        return
      }
    } catch {
      context.log(.warning, "what the backup builds on couldn't be looked at: \(ProblemDetails(error).detail)")
    }
  }
}

extension CatalogReading {
  /// All that the backup builds on, and the newest of its line with what that builds on; each after its parent.
  fileprivate func parentsToJudge(of id: BackupID) throws -> [BackupID] {
    let backup = try find(id)
    let newest = try backup.tracker.flatMap {
      try newestBackup(of: backup.image, in: backup.repository, tracker: $0)
    }
    var (path, known) = ([BackupID](), Set<BackupID>())
    for top in [backup.parent, newest?.id] {
      var (links, next) = ([BackupID](), top)
      while let link = next, known.insert(link).inserted {
        links.append(link)
        next = try self.backup(link)?.parent
      }
      path += links.reversed()
    }
    return path
  }
}
