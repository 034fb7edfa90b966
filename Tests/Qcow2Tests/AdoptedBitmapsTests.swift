import BlockCore
import BlockTesting
import Testing

@testable import Qcow2

/// Bitmaps that a killed program left in use are made consistent again by what knows what they missed.
@Suite struct AdoptedBitmapsTests {
  private static func killed(_ options: String) async throws -> SparseImage {
    let folder = try TemporaryFolder()
    let made = MemoryDevice(try SparseImage(contentsOf: try BitmapStoringTests.image(in: folder, options: options)))
    let image = try await openToKeepBitmaps(made)
    try await image.markBitmapsInUse([])
    try await image.changeBitmaps([.store(TestBitmap("mine", granularity: 4096, byteCount: 3 << 20))])
    try await image.setTrackingMark(TrackingMarkTests.mark)
    try await image.markBitmapsInUse(.names("mine"))
    try await image.flush()
    return made.image
  }

  /// Power loss at any call leaves what can be adopted again, or the bitmap as it was stored.
  @Test(arguments: ["cluster_size=4096", "cluster_size=64k"])
  func adoptionCutOffAtAnyCallCanBeRepeated(_ options: String) async throws {
    try await LoopActor().run { _ in
      let file = try await Self.killed(options)
      var bitmap = TestBitmap("mine", granularity: 4096, byteCount: 3 << 20)
      bitmap.mark(8192..<20000)
      let wanted = bitmap
      func adopt(_ device: any BlockDevice) async throws {
        let image = try await openToKeepBitmaps(device)
        #expect(image.trackingMark == TrackingMarkTests.mark && image.lastTrackingMark == TrackingMarkTests.mark)
        try await image.adoptBitmaps(.names("mine"))
        try await image.changeBitmaps([.store(wanted)])
        #expect(image.trackingMark == TrackingMarkTests.mark, "until the caller takes it out")
        try await image.close()
      }
      let whole = CrashPointDevice(file)
      try await adopt(whole)
      for call in 1...whole.changingCalls {
        let device = CrashPointDevice(file)
        device.crash(atCall: call)
        try? await adopt(device)
        for found in device.durableImages(seed: UInt64(call), count: 3) {
          let image = try await openToKeepBitmaps(MemoryDevice(found.image))
          #expect(image.trackingMark == TrackingMarkTests.mark, "call \(call)")
          if try await TestBitmap.load("mine", from: image).isInUse { try await adopt(found) }
          let again = try await openToKeepBitmaps(MemoryDevice(found.image))
          let recovered = try await TestBitmap.load("mine", from: again)
          #expect(!recovered.isInUse, "call \(call)")
          #expect(recovered.dirtyRanges(3 << 20) == wanted.dirtyRanges(3 << 20), "call \(call)")
        }
      }
    }
  }

  /// What nobody adopts stays inconsistent, and its mark doesn't count any more once the image changes.
  @Test func whatIsNotAdoptedStaysInconsistent() async throws {
    try await LoopActor().run { _ in
      let image = try await openToKeepBitmaps(MemoryDevice(try await Self.killed("cluster_size=64k")))
      await #expect(throws: BlockError.self) {
        try await image.changeBitmaps([.store(TestBitmap("mine", granularity: 4096, byteCount: 3 << 20))])
      }
      #expect(image.trackingMark == nil && image.lastTrackingMark == TrackingMarkTests.mark)
    }
  }
}
