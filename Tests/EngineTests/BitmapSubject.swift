import Engine
import Foundation
import Model
import Testing

/// An image that is open to be written by a guest, or at rest, and its bitmaps.
struct BitmapSubject {
  let test: TestEngine
  let image: BitmapImage
  var path: String { image.location.source.place }

  init(_ test: TestEngine, _ name: ResourceName = "vm", size: String = "8M", id: ImageID = ImageID()) throws {
    self.test = test
    image = BitmapImage(id: id, name: name, location: try test.makeQcow2(name.text, size: size))
  }

  func action(_ bitmap: String, _ change: BitmapOrder.Change) -> BitmapOrder.Action {
    BitmapOrder.Action(image: image, bitmap: BitmapName(bitmap), change)
  }

  @discardableResult
  func change(_ bitmap: String, _ change: BitmapOrder.Change) async throws -> BitmapRecord? {
    try await test.engine.change(BitmapOrder([action(bitmap, change)]))[0]
  }

  func add(_ bitmap: String, isRecording: Bool = true, isPersistent: Bool = true) async throws {
    try await change(bitmap, .add(granularity: 65536, isRecording: isRecording, isPersistent: isPersistent))
  }

  func merge(_ sources: (BitmapSubject, String)...) -> BitmapOrder.Change {
    .merge(sources.map { BitmapOrder.Source(image: $0.0.image, bitmap: BitmapName($0.1)) })
  }

  var records: [BitmapRecord] {
    get async throws { try await test.engine.bitmaps(of: image, after: nil, limit: 1000) }
  }

  /// Names with their states, and the granules of 64 KiB that are dirty.
  var story: [String] {
    get async throws {
      try await records.map { record in
        let dirty = record.dirtyBytes.map { " \($0 >> 16)" } ?? ""
        return "\(record.name.text ?? "?") \(record.state.rawValue)\(dirty)"
      }
    }
  }

  func dirty(_ bitmap: String) async throws -> [UInt64] {
    let page = try await test.engine.extents(of: BitmapName(bitmap), of: image, StoredExtentQuery(limit: 1000))
    return page.items.filter(\.dirty).flatMap { [$0.offset >> 16, $0.length >> 16] }
  }

  /// What QEMU says of them.
  var asQEMUSees: [String] {
    get throws {
      let text = try Tool.run("qemu-img", "info", "--output=json", path)
      let info = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any]
      let specific = (info?["format-specific"] as? [String: Any])?["data"] as? [String: Any]
      let bitmaps = specific?["bitmaps"] as? [[String: Any]] ?? []
      return bitmaps.map { bitmap in
        let flags = (bitmap["flags"] as? [String] ?? []).sorted().joined(separator: ",")
        return "\(bitmap["name"] as? String ?? "?") \(flags)"
      }
    }
  }

  func writeAtRest(_ commands: String...) throws {
    try Tool.run("qemu-io", ["-f", "qcow2"] + commands.flatMap { ["-c", $0] } + [path])
  }

  /// Attaches it for a while, with a guest's export.
  func attached(_ body: (_ write: (String...) async throws -> Void) async throws -> Void) async throws {
    try await test.attach(image.location, as: image.id)
    let export = test.order(image.name, .attachedImage(image.id), isReadOnly: false)
    try await test.engine.export(export)
    try await body { (commands: String...) in
      try await Tool.runAside("qemu-io", ["-f", "raw"] + commands.flatMap { ["-c", $0] } + [test.uri(export)])
    }
    try await test.engine.withdraw(export.export, .hard)
    try await test.engine.detach(image.id)
    try Tool.judge("check", "-q", "-f", "qcow2", path)
  }
}

func refusal(_ body: () async throws -> Void) async -> DomainError? {
  do {
    try await body()
    return nil
  } catch {
    return error as? DomainError
  }
}
