import BlockCore
import EventLoops
import Failures
import Model

/// Why the bitmaps of an image stay inconsistent.
struct RefusedRecovery: Sendable {
  let reason: FallbackReason
  let why: String
}

extension LocalEngine {
  /// Opens an image that is to be backed up at rest. If it was open when the server was killed, its bitmaps are made
  /// consistent before that, as far as what was recorded can be trusted.
  nonisolated(nonsending)
    func openToBackUp(
      _ image: ImageLocation, for user: ImageUser, on loop: EventLoop, _ control: any JobControl
    ) async throws -> OpenImage
  {
    let use = ImageUse(user, needs: .rest)
    let opened = try await opener(on: loop).open(image, for: use)
    guard try await awaitsRecovery(opened, on: loop) else { return opened }
    try await opened.device.close()
    do {
      let graph = try await opener(on: loop).openToWrite(
        image, tracking: .recorded, for: ImageUse(user, needs: .alone))
      note(graph)
      try await graph.close()
    } catch {
      control.log(
        .info, "what the image's bitmaps missed couldn't be recovered: \((error as? DomainError)?.detail ?? "\(error)")"
      )
    }
    return try await opener(on: loop).open(image, for: use)
  }

  nonisolated(nonsending)
    func awaitsRecovery(_ image: OpenImage, on loop: EventLoop) async throws -> Bool
  {
    guard let records, let qcow2 = image.trackable, let mark = qcow2.lastTrackingMark,
      let stored = try? await qcow2.bitmaps(), stored.areTrusted, stored.entries.contains(where: \.isInUse)
    else { return false }
    return await records.files(mark.sidecar, on: loop).areThere()
  }

  /// Remembers why the bitmaps of an image that was opened to be written couldn't be recovered.
  func note(_ graph: ImageGraph) {
    guard case .refused(let reason, let why) = graph.recovery, let file = graph.image.files.first else { return }
    refusedRecoveries.withLock { $0[FileIdentity(file.status)] = RefusedRecovery(reason: reason, why: why) }
  }

  /// What a tracker tells, with the reason why it wasn't recovered.
  func explained(_ finding: StoredTracker.Finding, of image: OpenImage) -> StoredTracker.Finding {
    guard let file = image.files.first else { return finding }
    let refused = refusedRecoveries.withLock { $0[FileIdentity(file.status)] }
    guard case .missing(.uncleanStop, let text) = finding, let refused else { return finding }
    return .missing(refused.reason, "\(text), and \(refused.why)")
  }
}
