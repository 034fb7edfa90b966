import Engine
import Foundation
import Model
import ModelTesting
import Testing

extension TestEngine {
  /// A qcow2 image with some data, made by qemu-img.
  func makeQcow2(_ name: String = "vm", size: String = "4M", seed: UInt64 = 5) throws -> ImageLocation {
    let raw = root + "/\(name).raw"
    try SampleImage.raw(at: raw, byteCount: 3 << 20, seed: seed)
    let path = images + "/\(name).qcow2"
    try Tool.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path)
    try Tool.run("qemu-img", "resize", "-q", "-f", "qcow2", path, size)
    return ImageLocation(source: .file(path: path), format: .qcow2)
  }

  @discardableResult
  func attach(
    _ location: ImageLocation, as image: ImageID, cache: CacheMode? = nil, lockTimeout: Int = 0,
    control: RecordingJobControl = RecordingJobControl()
  ) async throws -> AttachReceipt {
    try await engine.attach(
      AttachOrder(image: image, location: location, cache: cache, lockTimeout: lockTimeout), control: control)
  }

  func order(
    _ name: ResourceName, _ source: ExportOrder.Source, isReadOnly: Bool = true, at address: ExportAddress? = nil,
    tls: ExportTLS? = nil, depth: Bool = false, bitmaps: [ExportedBitmap] = [],
    changedSince: [ExportOrder.Difference] = []
  ) -> ExportOrder {
    ExportOrder(
      export: ExportID(), name: name, description: "for a test", source: source, isReadOnly: isReadOnly,
      listen: address ?? .unix(path: socket("nbd")), tls: tls, offersAllocationDepth: depth,
      bitmaps: bitmaps, changedSince: changedSince)
  }

  func socket(_ name: String) -> String { sockets + "/\(name)" }

  /// Where `order` is found by clients.
  func uri(_ order: ExportOrder) -> String {
    Export(
      name: order.name, source: .image(ImageID()), isReadOnly: order.isReadOnly, listen: order.listen, tls: order.tls,
      createdAt: Date()
    ).uri
  }

  /// A client of the export that has connected, and stays.
  func client(of order: ExportOrder, isReadOnly: Bool = true) async throws -> PeerProcess {
    let client = try await PeerProcess("qemu-io", ["-f", "raw"] + (isReadOnly ? ["-r"] : []) + [uri(order)])
    try await eventually("a client is connected") { (engine.activity(of: order.export)?.clients ?? 0) > 0 }
    return client
  }
}
