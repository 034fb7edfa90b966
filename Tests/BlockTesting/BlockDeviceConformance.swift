import BlockCore
import Buffers

/// What every ``BlockDevice`` must do. Each implementation's tests run all checks:
///
///     @Test(arguments: BlockDeviceConformance.Check.allCases)
///     func conforms(_ check: BlockDeviceConformance.Check) async throws { try await suite.run(check) }
///
/// Everything runs where `run` is called, so a test calls it from an actor on the device's home loop. A check that
/// fails throws ``ConformanceFailure`` (or the device's own error) with the place and the seed.
package struct BlockDeviceConformance: Sendable {
  /// Makes a device of `byteCount` zeroes.
  package typealias Make = @Sendable (_ byteCount: UInt64) async throws -> any BlockDevice

  package struct Traits: Sendable {
    /// The size of the device under test; its last cluster or sector should be a short one where that is possible.
    package var byteCount: UInt64 = (1 << 20) + 3 * 4096
    /// False: `resize` must fail with `notSupported`.
    package var resizes = true
    /// False: `discard` must fail with `notSupported`.
    package var discards = true
    /// True: a whole preferred-size block that was zeroed is told as zero, and one that was written as not zero.
    package var tellsZeroes = true

    package init() {}
  }

  package enum Check: String, CaseIterable, Sendable {
    case newDeviceReadsAsZeroes
    case requestsPastTheEndFail
    case emptyRequestsSucceed
    case misalignedAndTooLongRequestsFail
    case readOnlyDeviceRefusesChanges
    case readsWhatWasWrittenAtEveryEdge
    case takesAnyMemory
    case writeZeroesChangesJustItsRange
    case discardChangesJustItsRange
    case statusCoversItsRange
    case statusTellsZeroesTruly
    case tryReadAgreesWithRead
    case flushedContentsOutliveReopening
    case resizeNeverShowsOldBytes
    case closedDeviceRefusesEverything
    case randomOperationsMatchTheModel
    case concurrentRequestsKeepToTheirRanges
  }

  let traits: Traits
  let make: Make
  let makeReadOnly: Make?
  let reopen: (@Sendable (any BlockDevice) async throws -> any BlockDevice)?

  /// - Parameters:
  ///   - makeReadOnly: the same, but open read-only; nil where that doesn't exist.
  ///   - reopen: given a device that was closed, opens the same storage again; nil where that doesn't exist.
  package init(
    _ traits: Traits = Traits(),
    makeReadOnly: Make? = nil,
    reopen: (@Sendable (any BlockDevice) async throws -> any BlockDevice)? = nil,
    make: @escaping Make
  ) {
    self.traits = traits
    self.make = make
    self.makeReadOnly = makeReadOnly
    self.reopen = reopen
  }

  /// Makes devices as it needs them, runs one check, and closes them.
  ///
  /// - Parameter isolation: the actor on the devices' home loop; left out, it is the caller's.
  package func run(
    _ check: Check, seed: UInt64 = 1, isolation: isolated (any Actor)? = #isolation
  ) async throws {
    switch check {
    case .newDeviceReadsAsZeroes: try await newDeviceReadsAsZeroes()
    case .requestsPastTheEndFail: try await requestsPastTheEndFail()
    case .emptyRequestsSucceed: try await emptyRequestsSucceed()
    case .misalignedAndTooLongRequestsFail: try await misalignedAndTooLongRequestsFail()
    case .readOnlyDeviceRefusesChanges: try await readOnlyDeviceRefusesChanges()
    case .readsWhatWasWrittenAtEveryEdge: try await readsWhatWasWrittenAtEveryEdge(seed)
    case .takesAnyMemory: try await takesAnyMemory(seed)
    case .writeZeroesChangesJustItsRange: try await writeZeroesChangesJustItsRange(seed)
    case .discardChangesJustItsRange: try await discardChangesJustItsRange(seed)
    case .statusCoversItsRange: try await statusCoversItsRange(seed)
    case .statusTellsZeroesTruly: try await statusTellsZeroesTruly(seed)
    case .tryReadAgreesWithRead: try await tryReadAgreesWithRead(seed)
    case .flushedContentsOutliveReopening: try await flushedContentsOutliveReopening(seed)
    case .resizeNeverShowsOldBytes: try await resizeNeverShowsOldBytes(seed)
    case .closedDeviceRefusesEverything: try await closedDeviceRefusesEverything()
    case .randomOperationsMatchTheModel: try await randomOperationsMatchTheModel(seed)
    case .concurrentRequestsKeepToTheirRanges: try await concurrentRequestsKeepToTheirRanges(seed, isolation)
    }
  }

  /// Runs `body` with a new device and closes it, whatever happens.
  func withDevice(_ body: (any BlockDevice) async throws -> Void) async throws {
    let device = try await make(traits.byteCount)
    do {
      try await body(device)
    } catch {
      try? await device.close()
      throw error
    }
    try await device.close()
  }

  /// Runs `body` with a new device full of seeded bytes, and what it must read as.
  func withFilledDevice(
    _ seed: UInt64,
    _ body: (any BlockDevice, inout ByteModel, inout SeededRandom) async throws -> Void
  ) async throws {
    var random = SeededRandom(seed: seed)
    var model = ByteModel(byteCount: traits.byteCount)
    let bytes = random.bytes(Int(traits.byteCount))
    model.write(bytes, at: 0)
    try await withDevice { device in
      try await device.writeBytes(bytes, at: 0)
      try await body(device, &model, &random)
    }
  }

  func expect(
    _ condition: Bool, _ text: @autoclosure () -> String, fileID: StaticString = #fileID, line: UInt = #line
  ) throws {
    if !condition { throw ConformanceFailure(text(), fileID: fileID, line: line) }
  }

  /// Throws unless `body` fails with one of `kinds`.
  func expectFailure(
    _ kinds: Set<BlockError.Kind>, _ what: String, fileID: StaticString = #fileID, line: UInt = #line,
    _ body: () async throws(BlockError) -> Void
  ) async throws {
    do {
      try await body()
    } catch {
      if kinds.contains(error.kind) { return }
      throw ConformanceFailure("\(what) failed with “\(error)”, not \(kinds)", fileID: fileID, line: line)
    }
    throw ConformanceFailure("\(what) succeeded; \(kinds) was due", fileID: fileID, line: line)
  }
}
