/// What a listener wants to know at once of what changed. Which members are there depends on the noun.
package struct EventPayload: Hashable, Sendable, Codable {
  /// Why an attached image is written no more.
  package struct Failure: Hashable, Sendable, Codable {
    package var operation: String
    package var detail: String
    /// In the file, in bytes, if it was about a place.
    package var offset: UInt64?
    /// The kernel's, where it was the kernel that refused.
    package var errno: Int32?

    package init(_ failure: ImageFailure) {
      operation = failure.operation
      detail = failure.detail
      offset = failure.offset
      errno = failure.errno
    }
  }

  package var name: ResourceName?
  /// One of the noun's states.
  package var state: String?
  /// Of a job.
  package var kind: JobKind?
  /// Why a backup fell back to reading everything, or to a full.
  package var fallbackReason: FallbackReason?
  /// What a queued job waits for, in words.
  package var waitingFor: String?
  /// That a backup or an export is of.
  package var image: ImageID?
  package var backup: BackupID?
  /// That changed, of the image.
  package var bitmap: BitmapName?
  package var repository: RepositoryID?
  package var failure: Failure?
  /// Of a fleecing: its images, and why it is broken.
  package var images: [ImageID]?
  package var error: ProblemCode?
  package var why: String?

  package init() {}

  package init(_ image: Image, failure: ImageFailure? = nil) {
    name = image.name
    state = image.state.rawValue
    self.failure = failure.map(Failure.init)
  }

  package init(_ repository: Repository) {
    name = repository.name
    state = repository.state.rawValue
  }

  package init(_ backup: Backup) {
    state = backup.state.rawValue
    fallbackReason = backup.fallbackReason
    image = backup.image
    repository = backup.repository
  }

  package init(_ export: Export) {
    name = export.name
    state = export.state.rawValue
    switch export.source {
    case .image(let id): image = id
    case .backup(let id): backup = id
    }
  }

  package init(_ fleecing: Fleecing) {
    state = fleecing.state.rawValue
    images = fleecing.images.map(\.image)
    error = fleecing.error?.code
    why = fleecing.error?.detail
  }

  /// - Parameter state: nil if it is no longer there.
  package init(_ bitmap: BitmapName, _ state: BitmapRecord.State?, of image: ImageID) {
    self.bitmap = bitmap
    self.image = image
    self.state = state?.rawValue
  }

  package init(_ job: Job) {
    state = job.state.rawValue
    kind = job.request.kind
    waitingFor = job.waitingFor
  }
}
