import Logging
import Model

/// What is to be brought in line with the catalog later, and the tasks that do so. Bounded by images and exports.
struct PendingReconciliation: Sendable {
  var images: Set<ImageID> = []
  var exports: Set<ExportID> = []
  var follower: Task<Void, Never>?
  var lockWaiters: [Task<Void, Never>] = []
  var isClosed = false
}

extension Serving {
  func follow(image id: ImageID) { follow { $0.images.insert(id) } }
  func follow(export id: ExportID) { follow { $0.exports.insert(id) } }

  private func follow(_ add: (inout PendingReconciliation) -> Void) {
    pendingReconciliation.withLock { ends in
      add(&ends)
      guard ends.follower == nil, !ends.isClosed else { return }
      ends.follower = Task { await tieUp() }
    }
  }

  /// Ends the work in the background, and lets no operation begin; returns when the one at hand has ended, at
  /// the latest at `deadline`.
  func stop(until deadline: ContinuousClock.Instant) async {
    let tasks = pendingReconciliation.withLock { ends in
      ends.isClosed = true
      return ends.lockWaiters + [ends.follower].compactMap { $0 }
    }
    for task in tasks { task.cancel() }
    fleecings.stop()
    await closeTurns(until: deadline)
  }

  // MARK: Loose ends

  /// Tries now and then until everything is in line, or the attempts are used up: then the next start does it.
  private func tieUp() async {
    for _ in 0..<limits.lateAttempts {
      do { try await transactions.time.sleep(for: limits.lateInterval) } catch { break }
      await bringInLine()
      let isDone = pendingReconciliation.withLock { ends in
        guard ends.images.isEmpty, ends.exports.isEmpty else { return false }
        ends.follower = nil
        return true
      }
      if isDone { return }
    }
    pendingReconciliation.withLock { $0.follower = nil }
  }

  private func bringInLine() async {
    let (images, exports) = pendingReconciliation.withLock { ends in
      defer { (ends.images, ends.exports) = ([], []) }
      return (ends.images, ends.exports)
    }
    // Exports that no row knows keep their image open; exports that are known need theirs to be.
    for id in exports where isUnknown(id) { await withdraw(id) }
    for id in images {
      let isDone: Void? = try? await alone(with: .image(id)) { await bringInLine(id) }
      if isDone == nil { follow(image: id) }
    }
    for id in exports where !isUnknown(id) {
      guard let source = try? transactions.read({ try $0.export(id)?.source }) else {
        follow(export: id)
        continue
      }
      let isDone: Void? = try? await alone(with: source) { _ = await open(id) }
      if isDone == nil { follow(export: id) }
    }
  }

  /// Whether the catalog surely hasn't got it.
  private func isUnknown(_ id: ExportID) -> Bool { (try? transactions.read { try $0.export(id) == nil }) ?? false }

  private func bringInLine(_ id: ImageID) async {
    do {
      let image = try transactions.read { try $0.image(id) }
      guard let image, image.state == .attached else { return await close(id) }
      if await attachAgain(image) == nil { await openExports(of: id) }
    } catch {
      follow(image: id)
    }
  }

  // MARK: Locked images

  /// Attaches an image that another process held at start-up, as soon as the locks are free, within
  /// `ServiceLimits.lockTimeout`.
  func attachWhenUnlocked(_ image: ImageID) {
    pendingReconciliation.withLock { ends in
      guard !ends.isClosed else { return }
      ends.lockWaiters.append(Task { await waitForLocks(of: image) })
    }
  }

  private func waitForLocks(of image: ImageID) async {
    let deadline = transactions.time.instant + limits.lockTimeout
    while transactions.time.instant < deadline {
      do {
        try await transactions.time.sleep(for: limits.lockInterval)
        guard try await alone(with: .image(image), { await isStillLocked(image) }) else { return }
      } catch {
        return
      }
    }
    logger.warning(
      "an image stays unavailable: somebody else holds its locks; attach it when they are free",
      metadata: ["image": "\(image)"])
  }

  /// One more attempt, unless a request attached or detached it meanwhile.
  private func isStillLocked(_ id: ImageID) async -> Bool {
    guard !Task.isCancelled, let image = try? transactions.read({ try $0.image(id) }), image.state == .unavailable,
      image.attachment != nil
    else { return false }
    if let error = await attachAgain(image) { return error.code == .imageLocked }
    await openExports(of: id)
    return false
  }
}
