import BlockCore
import Foundation
import Model
import ModelTesting
import Testing

@testable import Engine

/// What the record of an image's changes says of when its file was changed.
struct CrashRecordTests {
  /// In the header of the map: seconds since 1970.
  private static let lastChange: UInt64 = 48

  private static func backUp(_ guest: AttachedGuest, _ kind: RequestedBackupKind) async throws {
    let order = guest.order(kind)
    _ = try await guest.test.engine.begin(GroupOrder([order]), control: RecordingJobControl())
    _ = try await guest.test.engine.store(order.backup, control: RecordingJobControl())
  }

  /// After a kill, a later change would be another program's: the bitmaps would stay inconsistent for a change that was our own.
  @Test func whatTheServerItselfChangesIsNoted() async throws {
    try await withEngine { test in
      let guest = try await AttachedGuest(test)
      try await Self.backUp(guest, .full)
      let name = try #require(
        try FileManager.default.contentsOfDirectory(atPath: test.root).first { $0.hasPrefix("cobweb-") })
      // It goes on being readable when the image is closed.
      let map = try #require(FileHandle(forUpdatingAtPath: test.root + "/" + name))
      defer { try? map.close() }
      func expectNoted(_ what: Comment, _ change: () async throws -> Void) async throws {
        try map.seek(toOffset: Self.lastChange)
        try map.write(contentsOf: Data(count: 8))
        try await change()
        try map.seek(toOffset: Self.lastChange)
        let seconds = try #require(try map.read(upToCount: 8)).withUnsafeBytes { $0.loadUnaligned(as: Int64.self) }
        #expect(abs(Date().timeIntervalSince1970 - Double(seconds)) < 60, what)
      }
      try await expectNoted("a live backup") { try await Self.backUp(guest, .incremental) }
      let image = BitmapImage(id: guest.record.id, name: guest.record.name, location: guest.location)
      for change in [
        BitmapOrder.Change.add(granularity: 65536, isRecording: true, isPersistent: true), .clear, .remove,
      ] {
        try await expectNoted("\(change)") {
          _ = try await test.engine.change(
            BitmapOrder([BitmapOrder.Action(image: image, bitmap: BitmapName("mine"), change)]))
        }
      }
      try await expectNoted("a flush") {
        let graph = try guest.graph
        try await graph.loop.run { try await graph.slot.flush() }
      }
      try await expectNoted("a detach") { try await guest.detach() }
    }
  }
}
