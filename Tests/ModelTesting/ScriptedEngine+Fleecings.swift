import Model

/// Fleecings are remembered until they end.
extension ScriptedEngine {
  /// The fleecings that clients could use now.
  package var servedFleecings: [FleecingID: FleecingOrder] { state.withLock { $0.servedFleecings } }

  package var fleecings: Set<FleecingID> { Set(servedFleecings.keys) }

  package func fleece(_ order: FleecingOrder, control: any JobControl) async throws -> FleecingReceipt {
    let script = note(.fleece(order, job: control.job))
    try await script.work(.fleece(order, job: control.job), control)
    try script.fleece(order)
    state.withLock { $0.servedFleecings[order.fleecing] = order }
    let parts = order.parts.map { part in
      let dirty: UInt64? = part.base == nil ? nil : 65536
      return (part.image, FleecingReceipt.Part(virtualSize: 1 << 20, dirtyBytes: dirty, tracked: script.tracked))
    }
    return FleecingReceipt(pointInTime: ManualClock.epoch, parts: Dictionary(uniqueKeysWithValues: parts))
  }

  package func release(_ extents: [FleecedExtent], of image: ImageID, in fleecing: FleecingID) async throws {
    _ = try await arrive(.release(extents, of: image, in: fleecing))
    guard servedFleecings[fleecing] != nil else { throw DomainError(.fleecingEnded, "it isn't served") }
  }

  package func finish(_ fleecing: FleecingID) async throws {
    let script = note(.finishFleecing(fleecing))
    try? await script.storage(.finishFleecing(fleecing))
    state.withLock { $0.servedFleecings[fleecing] = nil }
    try script.finishFleecing(fleecing)
  }

  package func end(_ fleecing: FleecingID) async {
    let script = note(.endFleecing(fleecing))
    try? await script.storage(.endFleecing(fleecing))
    state.withLock { $0.servedFleecings[fleecing] = nil }
  }

  package func activity(of fleecing: FleecingID) async -> FleecingActivity? {
    let (script, isServed) = state.withLock { ($0.script, $0.servedFleecings[fleecing] != nil) }
    return isServed ? script.fleecingActivity(fleecing) : nil
  }

  package func onFleecingLoss(_ handler: @escaping @Sendable (FleecingLoss) -> Void) {
    state.withLock { $0.lossHandler = handler }
  }

  /// Has a fleecing lose its moment.
  package func lose(_ fleecing: FleecingID, why: String = "there was no room left") {
    let problem = ProblemDetails(DomainError(.pointInTimeLost, why))
    state.withLock { $0.lossHandler }?(FleecingLoss(fleecing: fleecing, problem: problem))
  }
}
