import Model

/// Every bound of the service, by name.
package struct ServiceLimits: Sendable {
  /// Jobs that run at the same time.
  package var concurrentJobs = 2
  /// Jobs that may wait for their turn; one more is refused with `queueFull`.
  package var queuedJobs = 256
  /// Jobs that may be paused: each holds its claims and its open files.
  package var pausedJobs = 64
  /// How long a pause lasts unless the request says otherwise, in seconds.
  package var pauseLength: Double = 24 * 60 * 60
  /// Between two looks at which pauses are over.
  package var pauseInterval = Duration.seconds(1)
  /// Backups in a row from which on `auto` begins a new chain.
  package var chainLength = BackupOrder.standardChainLength
  /// Images in one backup request.
  package var imagesPerBackup = 64
  /// Labels on one image.
  package var labelsPerImage = 64
  /// Bytes of one label's key or value.
  package var labelLength = 256
  /// How often a source is compared anew with the registered ones, as others were registered meanwhile.
  package var registrationAttempts = 32
  /// Lines that are kept of one job's log.
  package var logLinesPerJob = 1000
  /// Bytes that are kept of one such line.
  package var logLineLength = 4096
  /// Findings that are kept in one job's result.
  package var findingsPerResult = 100
  /// Events that are kept for listeners that come back; at most `pruneInterval` more for a while.
  package var eventsKept = 10_000
  /// Events between two prunings.
  package var pruneInterval = 256
  /// The newest events, held in memory for live listeners; one that is further behind reads the catalog.
  package var recentEvents = 1024
  /// The longest that a request may wait for a job.
  package var longestWait = Duration.seconds(60)
  /// How long an answer is kept under its idempotency key, in seconds.
  package var idempotencyLifetime: Double = 24 * 60 * 60
  /// Between two looks at a running job's progress for live listeners.
  package var tickInterval = Duration.milliseconds(200)
  /// Between two writes of a running job's progress and log to the catalog.
  package var storeInterval = Duration.seconds(1)
  /// How often a job's step is written before it is put off: a failing catalog must not lose how a job ended.
  package var commitAttempts = 6
  /// Before the second of those attempts; doubled before each further one.
  package var commitRetryDelay = Duration.milliseconds(50)
  /// How often a job's end that was put off is tried again, and how long apart. After that it is found out at the
  /// next start.
  package var lateAttempts = 720
  package var lateInterval = Duration.seconds(5)
  /// Exports that may be in the catalog.
  package var maximumExports = 1000
  /// Fleecings that may be live.
  package var liveFleecings = 64
  /// How long a fleecing that ended is kept, in seconds, and how often those that are over that are looked for.
  package var endedFleecingLifetime: Double = 24 * 60 * 60
  package var fleecingPruneInterval = Duration.seconds(60)
  /// Requests that may wait for other exports and attached images to be opened or closed.
  package var waitingOperations = 256
  /// How long the locks of an image that is to be attached at start-up are waited for, and how often they are tried:
  /// those of a killed predecessor last as long as its requests are in the kernel.
  package var lockTimeout = Duration.seconds(30)
  package var lockInterval = Duration.milliseconds(500)
  /// Rows that a rescan or recovery changes in one transaction.
  package var mergeBatch = 200
  /// Images, and repositories, that are looked at together after the start, to see whether they are there.
  package var concurrentLooks = 8
  /// After that long a look that hasn't ended lets the next one begin beside it.
  package var lookTurn = Duration.seconds(30)
  /// How long a registration, a rescan and the declarations at the start wait to learn which registered sources are one
  /// file.
  package var comparisonTimeout = Duration.seconds(5)
  /// How long a request waits to learn which images stand on the one that it is about, and how long one folder's
  /// images hold up another's there.
  package var overlayTimeout = Duration.seconds(10)
  package var overlayTurn = Duration.seconds(1)
  /// What the start waits for before requests are let in, though all of it goes on in the background: what was
  /// attached and exported is served again; declared repositories that the catalog doesn't know are opened; the looks
  /// end that end quickly.
  package var servingTimeout = Duration.seconds(30)
  package var declarationTimeout = Duration.seconds(10)
  package var lookTimeout = Duration.milliseconds(300)
  /// How long the start looks which declared image is one that was moved and renamed.
  package var moveTimeout = Duration.seconds(1)

  package init() {}
}
