import Bitmaps
import BlockCore
import EventLoops
import Failures
import Model
import NBD
import Qcow2

/// `qemu:dirty-bitmap:NAME` (QEMU's docs/interop/nbd.rst): where a bitmap is dirty.
struct DirtyBitmapContext: ExportContext {
  enum Bits: Sendable {
    /// A bitmap that records: what it calls dirty by the time of each request.
    case live(ImageBitmaps, name: [UInt8])
    case still(DirtyBitmap)
    /// What the export showed before is gone: all may have changed.
    case lost
  }

  static let prefix = "qemu:dirty-bitmap:"

  let name: String
  let bits: Bits

  func extents(
    in range: ByteRange, limit: Int, of device: any BlockDevice
  ) async throws(BlockError) -> [ContextExtent] {
    let found: DirtyBitmap? =
      switch bits {
      case .still(let still): still
      case .live(let bitmaps, let name): bitmaps.set[name]?.bits
      case .lost: nil
      }
    // Whoever copies what is dirty misses nothing.
    guard let bitmap = found else { return [ContextExtent(length: range.length, flags: 1)] }
    var extents: [ContextExtent] = []
    bitmap.forEachStretch(in: range, limit: limit) { stretch, isDirty in
      extents.append(ContextExtent(length: stretch.length, flags: isDirty ? 1 : 0))
    }
    return extents
  }
}

extension LocalEngine {
  /// What clients of an export may ask for.
  func contexts(_ order: ExportOrder, _ source: OpenExportSource) async throws -> [any ExportContext] {
    var contexts: [any ExportContext] = [AllocationContext()]
    if order.offersAllocationDepth { contexts.append(AllocationDepthContext()) }
    contexts += try await differenceContexts(order, source)
    guard !order.bitmaps.isEmpty else { return contexts }
    guard let bitmaps = source.bitmaps else {
      throw DomainError(
        .invalidField, "the export \(order.name) shows something that has no bitmaps",
        remedy: "show bitmaps of a qcow2 image of version 3")
    }
    for exported in order.bitmaps {
      let bits = try await bits(of: exported.bitmap, in: bitmaps, order, source.loop)
      contexts.append(DirtyBitmapContext(name: DirtyBitmapContext.prefix + exported.exportName, bits: bits))
    }
    return contexts
  }

  private func bits(
    of name: BitmapName, in bitmaps: OpenExportSource.Bitmaps, _ order: ExportOrder, _ loop: EventLoop
  ) async throws -> DirtyBitmapContext.Bits {
    do {
      return try await onLoop(loop) { loop in
        try await telling(about: "the export \(order.name)") { try await Self.bits(of: name, in: bitmaps, on: loop) }
      }
    } catch let error as DomainError where order.isServedAgain && [.notFound, .bitmapInconsistent].contains(error.code)
    {
      logger.warning(
        "a bitmap that an export shows can't be read: its clients find all of the disk dirty",
        metadata: ["export": "\(order.name)", "why": "\(error.detail)"])
      return .lost
    }
  }

  nonisolated(nonsending)
    private static func bits(
      of name: BitmapName, in bitmaps: OpenExportSource.Bitmaps, on loop: EventLoop
    ) async throws -> DirtyBitmapContext.Bits
  {
    switch bitmaps {
    case .live(let live): return try await bits(of: name, in: live, on: loop)
    case .atRest(let image):
      let set = BitmapSet(try await image.bitmaps(), byteCount: image.byteCount)
      return .still(try await image.load(named: try readable(name, in: set).name))
    }
  }

  /// A change of the bitmaps that is under way ends first; the next one finds the export.
  nonisolated(nonsending)
    private static func bits(
      of name: BitmapName, in live: ImageBitmaps, on loop: EventLoop
    ) async throws -> DirtyBitmapContext.Bits
  {
    try await live.reservePatiently(on: loop)
    defer { live.free() }
    let bitmap = try readable(name, in: live.set)
    if bitmap.isRecording { return .live(live, name: bitmap.name) }
    if let bits = bitmap.bits { return .still(bits) }
    return .still(try await live.image.load(named: bitmap.name))
  }

  static func readable(_ name: BitmapName, in set: BitmapSet) throws -> BitmapSet.Bitmap {
    guard let bitmap = set[name.bytes] else {
      throw DomainError(
        .notFound, "the image has no bitmap \(name.quoted)", remedy: "list the image's bitmaps for their names")
    }
    if let flaw = bitmap.flaw { throw DomainError(flaw, "bitmap \(name.quoted)") }
    return bitmap
  }
}
