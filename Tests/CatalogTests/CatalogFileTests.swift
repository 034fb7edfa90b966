import Catalog
import Foundation
import GRDB
import Glibc
import Locks
import Model
import ModelTesting
import Testing

struct CatalogFileTests {
  private let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  @Test func itsFilesAreTheOwnersAlone() async throws {
    let state = folder.path("new/state")
    let catalog = try SQLiteCatalog(stateFolder: state)
    try await catalog.write { try $0.insert(Image.sample()) }
    #expect(try mode(state) == 0o700)
    let names = try FileManager.default.contentsOfDirectory(atPath: state).sorted()
    #expect(names == ["catalog.sqlite", "catalog.sqlite-shm", "catalog.sqlite-wal", "cobweb.lock"])
    for name in names { #expect(try mode("\(state)/\(name)") == 0o600, "\(name)") }
    try catalog.close()
  }

  @Test func whatWasWrittenIsOnTheDiskBeforeTheAnswer() async throws {
    let catalog = try SQLiteCatalog(stateFolder: folder.path)
    let settings = try await catalog.write { transaction in
      let session = try #require(transaction as? CatalogSession)
      return try ["synchronous", "journal_mode", "foreign_keys"].map { try session.text("PRAGMA \($0)") }
    }
    #expect(settings == ["2", "wal", "1"])
    try catalog.close()
  }

  /// People copy the one file, and believe that they have the catalog.
  @Test func onceClosedTheOneFileIsAllOfIt() async throws {
    let image = Image.sample()
    let catalog = try SQLiteCatalog(stateFolder: folder.path("state"))
    try await catalog.write { try $0.insert(image) }
    _ = try catalog.read { try $0.image(image.id) }
    try catalog.close()
    try folder.makeFolder("copy")
    try FileManager.default.copyItem(
      atPath: folder.path("state/catalog.sqlite"), toPath: folder.path("copy/catalog.sqlite"))
    let copy = try SQLiteCatalog(stateFolder: folder.path("copy"))
    #expect(try copy.read { try $0.image(image.id) } == image)
    try copy.close()
  }

  /// A program that reads the catalog meanwhile keeps its log from being emptied, and holds up nothing.
  @Test func aReaderDoesNotHoldUpTheClose() async throws {
    let catalog = try SQLiteCatalog(stateFolder: folder.path)
    try await catalog.write { try $0.insert(Image.sample("a")) }
    var settings = GRDB.Configuration()
    settings.allowsUnsafeTransactions = true
    let reader = try DatabaseQueue(path: folder.path("catalog.sqlite"), configuration: settings)
    try await reader.writeWithoutTransaction { try $0.execute(sql: "BEGIN; SELECT count(*) FROM images") }
    try await catalog.write { try $0.insert(Image.sample("b")) }
    let start = ContinuousClock.now
    try catalog.close()
    #expect(ContinuousClock.now - start < .seconds(5))
    try await reader.writeWithoutTransaction { try $0.execute(sql: "ROLLBACK") }
    try reader.close()
    let again = try SQLiteCatalog(stateFolder: folder.path)
    #expect(try again.read { try $0.image(named: "a") != nil && $0.image(named: "b") != nil })
    try again.close()
  }

  @Test func aSecondProcessOnTheSameFolderIsRefusedUntilTheFirstOneEnds() throws {
    let first = try SQLiteCatalog(stateFolder: folder.path)
    let refusal = #expect(throws: CatalogOpenError.self) { try SQLiteCatalog(stateFolder: folder.path) }
    let processID = Int(ProcessInfo.processInfo.processIdentifier)
    #expect(refusal == .inUse(folder: folder.path, processID: processID))
    #expect("\(try #require(refusal))".contains("process \(processID)"))
    try first.close()
    try SQLiteCatalog(stateFolder: folder.path).close()
  }

  /// A claim that is refused closes its file once: a second time it would take the number from its next owner.
  @Test func aRefusedClaimClosesNoFileOfOthers() throws {
    let first = try SQLiteCatalog(stateFolder: folder.path)
    let isOver = Lock(false)
    let path = folder.path
    let refused = Thread {
      for _ in 0..<2000 { _ = try? SQLiteCatalog(stateFolder: path) }
      isOver.withLock { $0 = true }
    }
    refused.start()
    var stolen = 0
    while !isOver.withLock({ $0 }) {
      let descriptor = open("/dev/null", O_RDONLY | O_CLOEXEC)
      for _ in 0..<20 { sched_yield() }
      if close(descriptor) != 0 { stolen += 1 }
    }
    #expect(stolen == 0)
    try first.close()
  }

  @Test func aFolderThatCannotBeMadeIsNamed() throws {
    let file = try folder.write("", to: "file")
    let refusal = #expect(throws: CatalogOpenError.self) { try SQLiteCatalog(stateFolder: file + "/state") }
    #expect("\(try #require(refusal))".contains(file + "/state"))
  }

  @Test func aLockedCatalogIsNotCalledDamaged() throws {
    var configuration = GRDB.Configuration()
    configuration.allowsUnsafeTransactions = true
    let other = try DatabaseQueue(path: folder.path(SQLiteCatalog.fileName), configuration: configuration)
    try other.writeWithoutTransaction { try $0.execute(sql: "BEGIN EXCLUSIVE") }
    let refusal = #expect(throws: CatalogOpenError.self) {
      try SQLiteCatalog(stateFolder: folder.path, busyTimeout: 0.05)
    }
    guard case .unusable = refusal else {
      Issue.record("\(String(describing: refusal))")
      return
    }
    try other.writeWithoutTransaction { try $0.execute(sql: "ROLLBACK") }
    try other.close()
    try SQLiteCatalog(stateFolder: folder.path).close()
  }

  @Test func aFileThatIsNoDatabaseIsRefusedAndLeftAlone() throws {
    let text = String(repeating: "this is somebody's diary\n", count: 1000)
    try folder.write(text, to: SQLiteCatalog.fileName)
    let refusal = #expect(throws: CatalogOpenError.self) { try SQLiteCatalog(stateFolder: folder.path) }
    #expect("\(try #require(refusal))".contains("is no catalog"))
    #expect(try String(contentsOfFile: folder.path(SQLiteCatalog.fileName), encoding: .utf8) == text)
  }

  @Test func anotherProgramsDatabaseIsRefused() throws {
    try DatabaseQueue(path: folder.path(SQLiteCatalog.fileName)).write {
      try $0.execute(sql: "CREATE TABLE songs (id)")
    }
    let refusal = #expect(throws: CatalogOpenError.self) { try SQLiteCatalog(stateFolder: folder.path) }
    #expect("\(try #require(refusal))".contains("not those of a catalog"))
  }

  @Test func damageIsToldAsDamage() async throws {
    let first = try SQLiteCatalog(stateFolder: folder.path)
    try await first.write { transaction in
      for index in 0..<500 {
        try transaction.insert(Image.sample(try #require(ResourceName("vm-\(index)")), labels: ["a": "b"]))
      }
    }
    try first.close()
    let place = folder.path(SQLiteCatalog.fileName)
    var bytes = try Data(contentsOf: URL(fileURLWithPath: place))
    for index in 8192..<bytes.count { bytes[index] = 0xA5 }
    try bytes.write(to: URL(fileURLWithPath: place))
    do {
      let second = try SQLiteCatalog(stateFolder: folder.path)
      let error = #expect(throws: DomainError.self) { try second.read { try $0.images(PageRequest()) } }
      #expect(error?.code == .ioError)
      #expect(error?.detail.contains("damaged") == true)
      #expect(error?.remedy?.contains("rescan") == true)
      try second.close()
    } catch let error as CatalogOpenError {
      #expect("\(error)".contains("damaged"))
    }
  }

  @Test func aRowThatNobodyCouldHaveWrittenIsNamed() async throws {
    let catalog = try SQLiteCatalog(stateFolder: folder.path)
    let image = Image.sample()
    try await catalog.write { transaction in
      try transaction.insert(image)
      try (transaction as? CatalogSession)?.execute("UPDATE images SET labels = '{\"a\":1}'")
    }
    let error = #expect(throws: DomainError.self) { try catalog.read { try $0.image(image.id) } }
    #expect(error?.code == .ioError)
    #expect(error?.detail.contains(image.id.description) == true)
    try catalog.close()
  }

  @Test func aFullDiskFailsTheWriteAndLeavesTheCatalogAsItWas() async throws {
    let catalog = try SQLiteCatalog(stateFolder: folder.path)
    let kept = Image.sample("kept")
    try await catalog.write { try $0.insert(kept) }
    try await catalog.write { try ($0 as? CatalogSession)?.execute("PRAGMA max_page_count = 1") }
    let error = await #expect(throws: DomainError.self) {
      try await catalog.write { transaction in
        for index in 0..<1000 { try transaction.insert(Image.sample(try #require(ResourceName("vm-\(index)")))) }
      }
    }
    #expect(error?.code == .storageFull)
    #expect(try catalog.read { try $0.images(PageRequest()).items } == [kept])
    try await catalog.write { try ($0 as? CatalogSession)?.execute("PRAGMA max_page_count = 1000000") }
    try await catalog.write { try $0.insert(Image.sample("next")) }
    try catalog.close()
  }

  @Test func onceClosedItRefuses() async throws {
    let catalog = try SQLiteCatalog(stateFolder: folder.path)
    try catalog.close()
    try catalog.close()
    let write = await #expect(throws: DomainError.self) { try await catalog.write { try $0.insert(Image.sample()) } }
    let read = #expect(throws: DomainError.self) { try catalog.read { try $0.images(PageRequest()) } }
    #expect(write?.code == .stopping && read?.code == .stopping)
  }

  /// While another program holds the catalog, changes queue up; a close comes into the middle of them.
  @Test func aCloseWaitsForTheChangesUnderWay() async throws {
    let catalog = try SQLiteCatalog(stateFolder: folder.path, busyTimeout: 5)
    let other = try foreignLock()
    let changes = (0..<8).map { index in
      Task { try await catalog.write { try $0.insert(Image.sample(try #require(ResourceName("vm-\(index)")))) } }
    }
    while catalog.unfinished != ["8 changes of the catalog"] { try await Task.sleep(for: .milliseconds(5)) }
    let closing = Task.detached { try catalog.close() }
    try await Task.sleep(for: .milliseconds(100))
    try await other.writeWithoutTransaction { try $0.execute(sql: "ROLLBACK") }
    try other.close()
    for change in changes { try await change.value }
    try await closing.value
    #expect(catalog.unfinished.isEmpty)
    let again = try SQLiteCatalog(stateFolder: folder.path)
    #expect(try again.read { try $0.images(PageRequest()).items.count } == 8)
    try again.close()
  }

  /// One deadline for all that a request waits for, however many wait before it.
  ///
  /// Each change gets a second at least, so one after the other they would take 64. Half of that is the bound: the tests
  /// beside this one block the threads that it needs, for seconds on a busy machine.
  @Test func changesThatWaitForALockAreRefusedTogetherAtTheirDeadline() async throws {
    let catalog = try SQLiteCatalog(stateFolder: folder.path, busyTimeout: 120)
    let other = try foreignLock()
    let start = ContinuousClock.now
    let deadline = start + .milliseconds(300)
    await withTaskGroup(of: ProblemCode?.self) { group in
      for index in 0..<64 {
        group.addTask {
          await CatalogDeadline.wait(until: deadline) {
            do {
              try await catalog.write { try $0.insert(Image.sample(try #require(ResourceName("vm-\(index)")))) }
              return nil
            } catch {
              return (error as? DomainError)?.code
            }
          }
        }
      }
      for await code in group { #expect(code == .notReady) }
    }
    #expect(ContinuousClock.now - start < .seconds(32))
    try await other.writeWithoutTransaction { try $0.execute(sql: "ROLLBACK") }
    try other.close()
    try await catalog.write { try $0.insert(Image.sample("late")) }
    #expect(try catalog.read { try $0.images(PageRequest()).items.map(\.name.text) } == ["late"])
    try catalog.close()
  }

  /// A task that a request has started isn't bound by the request's deadline once that is answered.
  @Test func aDeadlineEndsWithItsWait() async throws {
    let (isOver, answer) = (AsyncStream<Void>.makeStream(), AsyncStream<Bool>.makeStream())
    await CatalogDeadline.wait(until: .now) {
      #expect(CatalogDeadline.hasPassed)
      Task {
        for await _ in isOver.stream {}
        answer.continuation.yield(CatalogDeadline.current == nil)
      }
    }
    #expect(CatalogDeadline.current == nil)
    isOver.continuation.finish()
    for await isFree in answer.stream {
      #expect(isFree)
      break
    }
  }

  private func foreignLock() throws -> DatabaseQueue {
    var configuration = GRDB.Configuration()
    configuration.allowsUnsafeTransactions = true
    let other = try DatabaseQueue(path: folder.path(SQLiteCatalog.fileName), configuration: configuration)
    try other.writeWithoutTransaction { try $0.execute(sql: "BEGIN IMMEDIATE") }
    return other
  }

  @Test func aForeignLockIsToldAfterTheTimeout() async throws {
    let catalog = try SQLiteCatalog(stateFolder: folder.path, busyTimeout: 0.05)
    var configuration = GRDB.Configuration()
    configuration.allowsUnsafeTransactions = true
    let other = try DatabaseQueue(path: folder.path(SQLiteCatalog.fileName), configuration: configuration)
    try await other.writeWithoutTransaction { try $0.execute(sql: "BEGIN IMMEDIATE") }
    let error = await #expect(throws: DomainError.self) { try await catalog.write { try $0.insert(Image.sample()) } }
    #expect(error?.code == .notReady)
    #expect(error?.detail.contains("locked") == true)
    #expect(try catalog.read { try $0.images(PageRequest()).items } == [], "readers go on")
    try await other.writeWithoutTransaction { try $0.execute(sql: "ROLLBACK") }
    try await catalog.write { try $0.insert(Image.sample()) }
    try other.close()
    try catalog.close()
  }

  @Test(arguments: [
    (ResultCode.SQLITE_FULL, ProblemCode.storageFull), (.SQLITE_IOERR, .ioError), (.SQLITE_CORRUPT, .ioError),
    (.SQLITE_READONLY, .ioError), (.SQLITE_CANTOPEN, .ioError), (.SQLITE_BUSY, .notReady), (.SQLITE_NOTADB, .ioError),
    (.SQLITE_CONSTRAINT, .internalError),
  ])
  func everyFailureOfTheStoreHasItsProblem(_ code: ResultCode, _ problem: ProblemCode) {
    let error = DomainError(DatabaseError(resultCode: code), at: "/state/catalog.sqlite")
    #expect(error.code == problem)
    #expect(problem == .internalError || error.detail.contains("/state/catalog.sqlite"))
  }

  private func mode(_ path: String) throws -> Int {
    let attributes = try FileManager.default.attributesOfItem(atPath: path)
    return try #require(attributes[.posixPermissions] as? NSNumber).intValue
  }
}
