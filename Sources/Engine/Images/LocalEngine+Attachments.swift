import EventLoops
import Failures
import Model

extension LocalEngine {
  /// How long locks that another process holds are waited for at most, in seconds, and how often they are tried.
  private static let maximumLockTimeout = 600
  private static let lockPause = Duration.milliseconds(100)

  package func attach(_ order: AttachOrder, control: any JobControl) async throws -> AttachReceipt {
    if case .nbd(let uri) = order.location.source {
      throw DomainError(
        .sourceNotAFile, "\(uri) is an export of another NBD server, where nothing keeps other writers away",
        remedy: "attach the image on the server that has its file")
    }
    try attachedImages.reserve(order.image, at: order.location)
    do {
      let receipt = try await onLoop(for: control.job, in: .folder(of: order.location.source.place)) { [self] loop in
        let graph = try await open(order, on: loop, control)
        note(graph)
        // Read before anybody else can close it.
        let receipt = AttachReceipt(
          virtualSize: graph.slot.byteCount, cache: graph.image.isDirect ? .direct : .writeback)
        attachedImages.put(graph, for: order.image)
        return receipt
      }
      control.log(.info, "\(order.location.source.place) is attached, cache \(receipt.cache.rawValue)")
      return receipt
    } catch {
      attachedImages.remove(order.image)
      throw error
    }
  }

  nonisolated(nonsending)
    private func open(
      _ order: AttachOrder, on loop: EventLoop, _ control: any JobControl
    ) async throws -> ImageGraph
  {
    let use = ImageUse(.attachment(order.location.source.place), needs: .write, isPassing: true)
    let graph = try await openPatiently(order, for: use, on: loop, control)
    guard graph.image.isDirect || order.cache != .direct else {
      try? await graph.slot.close()
      throw DomainError(
        .invalidField, "\(graph.name) can't be used past the page cache: its file system or its size rules it out",
        remedy: "attach it with the cache mode writeback")
    }
    return graph
  }

  /// Tries again while another program holds the image, for as long as the order says.
  nonisolated(nonsending)
    private func openPatiently(
      _ order: AttachOrder, for use: ImageUse, on loop: EventLoop, _ control: any JobControl
    ) async throws -> ImageGraph
  {
    let deadline = ContinuousClock.now + .seconds(min(order.lockTimeout, Self.maximumLockTimeout))
    var hasTold = false
    while true {
      try await control.checkpoint()
      do {
        return try await opener(on: loop, attaching: order.image).openToWrite(
          order.location, tracking: .recorded,
          direct: order.cache != .writeback, for: use)
      } catch let error as DomainError where error.code == .imageLocked && ContinuousClock.now < deadline {
        if !hasTold { control.log(.info, "waiting for whoever has it open: \(error.detail)") }
        hasTold = true
      }
      do throws(SystemError) {
        try await loop.sleep(for: Self.lockPause)
      } catch {
        throw CancellationError()
      }
    }
  }

  package func detach(_ image: ImageID) async throws { try await close(image, evictsUsers: false) }

  /// - Parameter evictsUsers: those that are left are of work that doesn't end. Nothing waits for their points in time.
  func close(_ image: ImageID, evictsUsers: Bool) async throws {
    guard let graph = try attachedImages.beginClosing(image, evictsUsers: evictsUsers) else { return }
    defer { attachedImages.remove(image) }
    try await onLoop(graph.loop) { _ in
      await graph.endPoints()
      try await graph.close()
    }
  }
}
