import BlockCore
import BlockTesting
import Foundation
import Locks
import Model
import ModelTesting
import Testing

@testable import Engine

/// An attached image, a guest that writes to it, and a model of what the guest has written.
final class AttachedGuest: Sendable {
  let test: TestEngine
  let location: ImageLocation
  let record: ImageRecord
  private let model: Lock<Data>

  convenience init(
    _ test: TestEngine, _ name: ResourceName = "vm", size: String = "4M", format: DiskFormat = .qcow2
  ) async throws {
    var location = try test.makeQcow2(name.text, size: size)
    if format == .raw {
      let raw = test.images + "/\(name)-attached.raw"
      try Tool.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", location.source.place, raw)
      location = ImageLocation(source: .file(path: raw), format: .raw)
    }
    try await self.init(test, name, at: location)
  }

  init(_ test: TestEngine, _ name: ResourceName = "vm", at location: ImageLocation) async throws {
    self.test = test
    self.location = location
    record = test.record(name, location.source.place, location.format)
    let copy = test.root + "/\(name)-copy.raw"
    try Tool.run("qemu-img", "convert", "-f", location.format.rawValue, "-O", "raw", location.source.place, copy)
    model = Lock(try SampleImage.bytes(copy))
    try await attach()
  }

  var contents: Data { model.withLock { $0 } }

  func attach() async throws { try await test.attach(location, as: record.id) }
  func detach() async throws { try await test.engine.detach(record.id) }

  var graph: ImageGraph {
    get throws { try #require(test.engine.attachedImages.graph(at: location.source)) }
  }

  func write(_ byte: UInt8, at offset: Int, _ count: Int) async throws {
    let graph = try graph
    try await graph.loop.run {
      try await graph.slot.writeBytes([UInt8](repeating: byte, count: count), at: UInt64(offset))
    }
    model.withLock { $0.replaceSubrange(offset..<offset + count, with: repeatElement(byte, count: count)) }
  }

  /// Zeroes, or gives back, whole clusters.
  func clear(_ cluster: Int, discarding: Bool) async throws {
    let graph = try graph
    let range = ByteRange(offset: UInt64(cluster) << 16, length: 1 << 16)
    try await graph.loop.run {
      if discarding {
        try await graph.slot.discard(range)
      } else {
        try await graph.slot.writeZeroes(range, options: [])
      }
    }
    model.withLock { $0.resetBytes(in: Int(range.offset)..<Int(range.end)) }
  }

  /// What another program writes while the image is detached.
  func writeBeside(_ byte: UInt8, at offset: Int, _ count: Int, version: ToolVersion = .current) throws {
    try Tool.run(
      "qemu-io", ["-f", record.format.rawValue, "-c", "write -P \(byte) \(offset) \(count)", location.source.place],
      version: version)
    model.withLock { $0.replaceSubrange(offset..<offset + count, with: repeatElement(byte, count: count)) }
  }

  /// A few changes anywhere.
  func change(_ count: Int, using random: inout SeededRandom) async throws {
    let clusters = contents.count >> 16
    for _ in 0..<count {
      let byte = UInt8.random(in: 1...255, using: &random)
      switch Int.random(in: 0..<8, using: &random) {
      case 0: try await clear(.random(in: 0..<clusters, using: &random), discarding: false)
      case 1: try await clear(.random(in: 0..<clusters, using: &random), discarding: true)
      default:
        let size = Int.random(in: 1...40_000, using: &random)
        try await write(byte, at: .random(in: 0..<contents.count - size, using: &random), size)
      }
    }
  }

  /// Between two changes of a guest that goes on: other tests share its loop.
  static let pause = Duration.milliseconds(2)

  /// Goes on writing while `body` runs.
  func writing<Result: Sendable>(seed: UInt64, _ body: () async throws -> Result) async throws -> Result {
    let isOver = Lock(false)
    let guest = Task { [self] in
      var random = SeededRandom(seed: seed)
      while !isOver.withLock({ $0 }) {
        try await change(1, using: &random)
        try await Task.sleep(for: Self.pause)
      }
    }
    do {
      let result = try await body()
      isOver.withLock { $0 = true }
      try await guest.value
      return result
    } catch {
      isOver.withLock { $0 = true }
      _ = try? await guest.value
      throw error
    }
  }

  func order(_ kind: RequestedBackupKind, _ compression: Compression = .zstd) -> BackupOrder {
    test.order(record, compression, kind: kind)
  }
}

/// A backup of an attached image, and what its guest had written by the moment.
struct LivePoint {
  let place: StoredBackupLocation
  let plan: BackupPlan
  let receipt: BackupReceipt
  let moment: Data

  func expectRestored(_ test: TestEngine, _ what: Comment) async throws {
    let target = test.images + "/restored-\(ULID())"
    try await test.restore(place, to: target, .raw)
    let bytes = try SampleImage.bytes(target)
    try FileManager.default.removeItem(atPath: target)
    guard bytes != moment else { return }
    let first = zip(bytes, moment).enumerated().first { $1.0 != $1.1 }?.offset
    Issue.record(
      "\(what): the restored disk differs, first at \(first.map(String.init) ?? "its length"), \(plan.reason)")
  }
}
