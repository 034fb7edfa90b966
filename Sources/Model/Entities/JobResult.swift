/// What came of a job. Filled also where it failed, as far as it came.
///
/// It is stored without a tag: its members tell which it is. What another version stored, and this one doesn't know, is
/// passed on as it is.
package enum JobResult: Hashable, Sendable {
  case backedUp(BackedUp)
  case verified(Verified)
  case restored(Restored)
  case deleted(Deleted)
  case rescanned(Rescanned)
  case checked(Checked)
  case attached(Attached)
  case detached(Detached)
  case verifiedChain(VerifiedChain)
  case restoredGroup(RestoredGroup)
  case reconciled(Reconciled)
  case fleeced(Fleeced)
  case finishedFleecing(FinishedFleecing)
  case other(JSONValue)

  package struct BackedUp: Hashable, Sendable, Codable {
    package enum Outcome: String, Hashable, Sendable, Codable, CaseIterable {
      case complete, failed, cancelled
      /// The server stopped in the middle.
      case interrupted
    }

    /// One image's part.
    package struct Part: Hashable, Sendable, Codable {
      package var image: ImageID
      package var imageName: String
      package var backup: BackupID
      package var outcome: Outcome
      package var error: ProblemDetails?

      package init(
        image: ImageID, imageName: String, backup: BackupID, outcome: Outcome, error: ProblemDetails? = nil
      ) {
        self.image = image
        self.imageName = imageName
        self.backup = backup
        self.outcome = outcome
        self.error = error
      }
    }

    /// In the order of the request.
    package var backups: [Part]

    package init(_ backups: [Part]) { self.backups = backups }
  }

  package struct Verified: Hashable, Sendable, Codable {
    package var backup: BackupID
    package var level: VerifyLevel
    package var isSound: Bool
    /// The first of them.
    package var findings: [String]
    package var findingCount: Int
    package var verifiedBytes: UInt64

    package init(
      backup: BackupID, level: VerifyLevel, isSound: Bool, findings: [String], findingCount: Int, verifiedBytes: UInt64
    ) {
      self.backup = backup
      self.level = level
      self.isSound = isSound
      self.findings = findings
      self.findingCount = findingCount
      self.verifiedBytes = verifiedBytes
    }

    private enum CodingKeys: String, CodingKey {
      case backup, level, findings, findingCount, verifiedBytes
      case isSound = "sound"
    }
  }

  package struct Restored: Hashable, Sendable, Codable {
    package enum Target: Hashable, Sendable {
      case file(path: String, format: DiskFormat)
      case image(ImageID, name: ResourceName)
      case nbd(uri: String, targetIsZero: Bool)
    }

    package var backup: BackupID
    /// That the backup is of.
    package var image: ImageID
    package var imageName: ResourceName
    package var target: Target
    package var virtualSize: UInt64
    package var writtenBytes: UInt64
    /// What was written: `all` or `changed`. Nil for a target that isn't an image.
    package var mode: RestoreMode?

    package init(
      backup: BackupID, image: ImageID, imageName: ResourceName, target: Target, virtualSize: UInt64,
      writtenBytes: UInt64, mode: RestoreMode? = nil
    ) {
      self.mode = mode
      self.backup = backup
      self.image = image
      self.imageName = imageName
      self.target = target
      self.virtualSize = virtualSize
      self.writtenBytes = writtenBytes
    }
  }

  package struct Deleted: Hashable, Sendable, Codable {
    package var backup: BackupID
    package var image: ImageID
    package var imageName: ResourceName

    package init(backup: BackupID, image: ImageID, imageName: ResourceName) {
      self.backup = backup
      self.image = image
      self.imageName = imageName
    }
  }

  package struct Rescanned: Hashable, Sendable, Codable {
    package var repository: RepositoryID
    package var repositoryName: ResourceName
    package var imagesAdded: Int
    package var chainsAdded: Int
    package var backupsAdded: Int
    package var backupsChanged: Int
    package var backupsMissing: Int
    /// The first of them.
    package var findings: [String]
    package var findingCount: Int

    package init(
      repository: RepositoryID, repositoryName: ResourceName, imagesAdded: Int, chainsAdded: Int, backupsAdded: Int,
      backupsChanged: Int, backupsMissing: Int, findings: [String], findingCount: Int
    ) {
      self.repository = repository
      self.repositoryName = repositoryName
      self.imagesAdded = imagesAdded
      self.chainsAdded = chainsAdded
      self.backupsAdded = backupsAdded
      self.backupsChanged = backupsChanged
      self.backupsMissing = backupsMissing
      self.findings = findings
      self.findingCount = findingCount
    }
  }

  package struct Checked: Hashable, Sendable, Codable {
    package var image: ImageID
    package var imageName: ResourceName
    package var isSound: Bool
    package var errors: Int
    package var leaks: Int
    package var repairedLeaks: Int
    /// The first of them.
    package var findings: [String]
    package var truncated: Bool
    package var checkedBytes: UInt64

    package init(
      image: ImageID, imageName: ResourceName, isSound: Bool, errors: Int, leaks: Int, repairedLeaks: Int,
      findings: [String], truncated: Bool, checkedBytes: UInt64
    ) {
      self.image = image
      self.imageName = imageName
      self.isSound = isSound
      self.errors = errors
      self.leaks = leaks
      self.repairedLeaks = repairedLeaks
      self.findings = findings
      self.truncated = truncated
      self.checkedBytes = checkedBytes
    }

    private enum CodingKeys: String, CodingKey {
      case image, imageName, errors, leaks, repairedLeaks, findings, truncated, checkedBytes
      case isSound = "sound"
    }
  }

  package struct Attached: Hashable, Sendable, Codable {
    package var image: ImageID
    package var imageName: ResourceName
    package var virtualSize: UInt64
    package var cache: CacheMode?

    package init(image: ImageID, imageName: ResourceName, virtualSize: UInt64, cache: CacheMode?) {
      self.image = image
      self.imageName = imageName
      self.virtualSize = virtualSize
      self.cache = cache
    }
  }

  package struct Reconciled: Hashable, Sendable, Codable {
    package var image: ImageID
    package var imageName: ResourceName
    /// The first of them.
    package var disagreements: [TrackingDisagreement]
    package var disagreementCount: Int

    package init(
      image: ImageID, imageName: ResourceName, disagreements: [TrackingDisagreement], disagreementCount: Int
    ) {
      self.image = image
      self.imageName = imageName
      self.disagreements = disagreements
      self.disagreementCount = disagreementCount
    }
  }

  package struct Detached: Hashable, Sendable, Codable {
    package var image: ImageID
    package var imageName: ResourceName

    package init(image: ImageID, imageName: ResourceName) {
      self.image = image
      self.imageName = imageName
    }
  }

  package struct VerifiedChain: Hashable, Sendable, Codable {
    package enum Outcome: String, Hashable, Sendable, Codable, CaseIterable {
      case sound, damaged
      /// It couldn't be told.
      case failed
      case cancelled
      /// The server stopped in the middle.
      case interrupted
    }

    /// One backup's part.
    package struct Part: Hashable, Sendable, Codable {
      package var backup: BackupID
      package var sequence: Int
      package var outcome: Outcome
      /// The first of them; over all parts together no more than a result keeps.
      package var findings: [String]
      package var findingCount: Int
      package var verifiedBytes: UInt64
      package var error: ProblemDetails?

      package init(
        backup: BackupID, sequence: Int, outcome: Outcome, findings: [String] = [], findingCount: Int = 0,
        verifiedBytes: UInt64 = 0, error: ProblemDetails? = nil
      ) {
        self.backup = backup
        self.sequence = sequence
        self.outcome = outcome
        self.findings = findings
        self.findingCount = findingCount
        self.verifiedBytes = verifiedBytes
        self.error = error
      }
    }

    package var chain: ChainID
    package var level: VerifyLevel
    /// In order of sequence.
    package var backups: [Part]

    package init(chain: ChainID, level: VerifyLevel, backups: [Part]) {
      self.chain = chain
      self.level = level
      self.backups = backups
    }
  }

  package struct RestoredGroup: Hashable, Sendable, Codable {
    /// One image's part.
    package struct Part: Hashable, Sendable, Codable {
      /// That the backup is of.
      package var image: ImageID
      package var imageName: String
      package var backup: BackupID
      package var outcome: BackedUp.Outcome
      /// What was restored, and where to; nil unless it is complete.
      package var restored: Restored?
      package var error: ProblemDetails?

      package init(
        image: ImageID, imageName: String, backup: BackupID, outcome: BackedUp.Outcome, restored: Restored? = nil,
        error: ProblemDetails? = nil
      ) {
        self.image = image
        self.imageName = imageName
        self.backup = backup
        self.outcome = outcome
        self.restored = restored
        self.error = error
      }
    }

    package var group: ULID
    /// In the order of the request.
    package var restores: [Part]

    package init(group: ULID, restores: [Part]) {
      self.group = group
      self.restores = restores
    }
  }

  package struct Fleeced: Hashable, Sendable, Codable {
    package var fleecing: FleecingID

    package init(fleecing: FleecingID) { self.fleecing = fleecing }
  }

  package struct FinishedFleecing: Hashable, Sendable, Codable {
    package var fleecing: FleecingID
    package var outcome: Fleecing.Outcome
    /// What the next fleecing may count from; nil if nothing was set.
    package var checkpoint: ULID?
    package var label: String?

    package init(fleecing: FleecingID, outcome: Fleecing.Outcome, checkpoint: ULID? = nil, label: String? = nil) {
      self.fleecing = fleecing
      self.outcome = outcome
      self.checkpoint = checkpoint
      self.label = label
    }
  }
}
