import BlockCore
import BlockFilters
import EventLoops
import Failures
import Model

extension LocalEngine {
  /// How long locks that another process holds are waited for at most, in seconds, and how often they are tried.
  private static let maximumLockPatience = 600
  private static let lockPause = Duration.milliseconds(100)

  package func attach(_ order: AttachOrder, control: any JobControl) async throws -> AttachReceipt {
    if case .nbd(let uri) = order.location.source {
      throw DomainError(
        .sourceNotAFile, "\(uri) is an export of another NBD server, where nothing keeps other writers away",
        remedy: "attach the image on the server that has its file")
    }
    try attachedImages.reserve(order.image, at: order.location)
    do {
      let (attached, cache) = try await onLoop(for: control.job, in: .folder(of: order.location.source.place)) {
        [self] loop in
        try await open(order, on: loop, control)
      }
      attachedImages.put(attached, for: order.image)
      control.log(.info, "\(attached.name) is attached, cache \(cache.rawValue)")
      return AttachReceipt(virtualSize: attached.byteCount, cache: cache)
    } catch {
      attachedImages.remove(order.image)
      throw error
    }
  }

  nonisolated(nonsending)
    private func open(
      _ order: AttachOrder, on loop: EventLoop, _ control: any JobControl
    ) async throws -> (AttachedImage, CacheMode)
  {
    let use = ImageUse("the attached image \(order.location.source.place)", isPassing: true)
    let opened = try await openPatiently(order, for: use, on: loop, control)
    guard opened.isDirect || order.cache != .direct else {
      try? await opened.device.close()
      throw DomainError(
        .invalidField, "\(opened.name) can't be used past the page cache: its file system or its size rules it out",
        remedy: "attach it with the cache mode writeback")
    }
    let attached = AttachedImage(
      location: order.location, slot: Slot(AlignedAccess.over(opened.device)), loop: loop,
      byteCount: opened.device.byteCount,
      use: use)
    return (attached, opened.isDirect ? .direct : .writeback)
  }

  /// Tries again while somebody else holds the image, for as long as the order says.
  nonisolated(nonsending)
    private func openPatiently(
      _ order: AttachOrder, for use: ImageUse, on loop: EventLoop, _ control: any JobControl
    ) async throws -> OpenImage
  {
    let deadline = ContinuousClock.now + .seconds(min(order.lockPatience, Self.maximumLockPatience))
    var hasTold = false
    while true {
      try await control.checkpoint()
      do {
        return try await opener(on: loop, attaching: order.image).open(
          order.location, isReadOnly: false, direct: order.cache != .writeback, for: use)
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

  package func detach(_ image: ImageID) async throws {
    guard let attached = try attachedImages.beginClosing(image) else { return }
    defer { attachedImages.remove(image) }
    try await onLoop(attached.loop) { _ in
      try await telling(about: attached.name) {
        try await closing([attached.slot]) {
          try await attached.slot.flush()
          try await attached.slot.close()
        }
      }
    }
  }
}
