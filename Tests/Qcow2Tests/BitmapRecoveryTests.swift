import BlockCore
import BlockTesting
import Testing

@testable import Qcow2

/// Whatever is cut off or fails while bitmaps are changed, the file has the old ones or the new ones, never a mixture.
@Suite struct BitmapRecoveryTests {
  static let byteCount: UInt64 = 3 << 20

  /// An image with the bitmaps old, rest and last; the second doesn't record.
  nonisolated(nonsending)
    private static func makeImage(_ clusterByteCount: Int) async throws -> SparseImage
  {
    let (file, made) = try await Qcow2Tests.makeImage(
      .init(virtualByteCount: byteCount, clusterByteCount: clusterByteCount))
    try await made.close()
    let device = MemoryDevice(file.image)
    let image = try await openToKeepBitmaps(device)
    try await image.writeBytes([UInt8](repeating: 1, count: 100_000), at: 5000)
    var bitmaps = ["old", "rest", "last"].map { TestBitmap($0, granularity: 512, byteCount: byteCount) }
    bitmaps[1].isAuto = false
    for index in 0..<3 { bitmaps[index].mark(UInt64(index) << 19..<(UInt64(index) << 19) + 70_000) }
    try await image.changeBitmaps(bitmaps.map { .store($0) })
    try await image.close()
    return device.image
  }

  private typealias State = [TestBitmap]

  nonisolated(nonsending)
    private static func state(_ image: Qcow2Image) async throws -> State
  {
    var state: State = []
    guard try await image.bitmaps().areTrusted else { throw ConformanceFailure("the bitmaps have lost their trust") }
    for entry in try await image.bitmaps().entries { state.append(try await TestBitmap.load(entry.name, from: image)) }
    return state
  }

  /// Marks, writes, stores and closes; tells each state of the bitmaps before it comes to be.
  nonisolated(nonsending)
    private static func tell(_ file: any BlockDevice, _ expect: (State) -> Void) async throws
  {
    let image = try await openToKeepBitmaps(file)
    do {
      var state = try await state(image)
      state[0].isInUse = true
      state[2].isInUse = true
      expect(state)
      try await image.markBitmapsInUse(.names("old", "last"))
      try await image.writeBytes([UInt8](repeating: 2, count: 40_000), at: 2 << 20)
      // A generation ends: the old one's bits go to a bitmap of another name, and another begins.
      var ended = state[0]
      ended.name = Array("ended".utf8)
      ended.isAuto = false
      ended.isInUse = false
      ended.mark(2 << 20..<(2 << 20) + 40_000)
      var next = TestBitmap("next", granularity: 4096, byteCount: byteCount)
      next.isInUse = true
      state = [state[1], state[2], ended, next]
      expect(state)
      try await image.changeBitmaps([
        .remove(name: Array("old".utf8)), .store(ended), .store(next),
      ])
      try await image.writeBytes([UInt8](repeating: 3, count: 9000), at: 0)
      state[1].mark(0..<9000)
      state[1].isInUse = false
      next.mark(0..<9000)
      next.isInUse = false
      state[3] = next
      state[0].isAuto = true
      expect(state)
      try await image.changeBitmaps([.store(state[1]), .store(next), .setAuto(name: state[0].name, true)])
    } catch {
      try? await image.close()
      throw error
    }
    try await image.close()
  }

  @Test(arguments: [512, 4096, 65536, 2 << 20])
  func powerLossAtAnyCallLeavesTheOldOrTheNewBitmaps(_ clusterByteCount: Int) async throws {
    let folder = try TemporaryFolder()
    try await LoopActor().run { _ in
      let file = try await Self.makeImage(clusterByteCount)
      let (beginning, calls) = try await Self.rehearse(file)
      // Large clusters make each image large.
      for call in stride(from: 1, through: calls, by: clusterByteCount > 65536 ? max(1, 5 / TestEffort.factor) : 1) {
        let device = CrashPointDevice(file)
        device.crash(atCall: call)
        var states: [State] = [beginning]
        do {
          try await Self.tell(device) { states = [states[states.count - 1], $0] }
          throw ConformanceFailure("power went at call \(call), and nobody was told")
        } catch is BlockError {} catch is Qcow2Error {}
        for (number, found) in device.durableImages(seed: UInt64(call)).enumerated() {
          let image = try await openToKeepBitmaps(found)
          let state = try await Self.state(image)
          let moment = "call \(call) of \(calls), image \(number)"
          // Marking is in place: each bitmap is what it was, or in use.
          let isBetween = states.count == 2 && Self.isBetween(state, states[0], states[1])
          #expect(states.contains(state) || isBetween, "\(moment): \(state.map(\.name))")
          #expect(try await image.check().corruptionCount == 0, "\(moment)")
          if call % 16 == 0, number == 3 {
            try found.image.dump(to: folder.file("image"))
            #expect(try Qemu.check(folder.file("image")).corruptions == 0, "\(moment)")
          }
        }
      }
    }
  }

  private static func isBetween(_ state: State, _ old: State, _ new: State) -> Bool {
    guard state.count == old.count, state.count == new.count else { return false }
    return zip(zip(old, new), state).allSatisfy { pair, found in
      var marked = pair.0
      marked.isInUse = true
      return marked == pair.1 || pair.0 == pair.1 ? found == pair.0 || found == pair.1 : false
    }
  }

  /// The bitmaps at the beginning, and how many calls change the device.
  nonisolated(nonsending)
    private static func rehearse(_ file: SparseImage) async throws -> (State, Int)
  {
    let first = try await openToKeepBitmaps(MemoryDevice(file))
    let beginning = try await state(first)
    let device = CrashPointDevice(file)
    var last: State = []
    try await tell(device) { last = $0 }
    let image = try await openToKeepBitmaps(MemoryDevice(device.liveImage))
    #expect(try await state(image) == last)
    #expect(try await image.check().isClean)
    return (beginning, device.changingCalls)
  }

  /// A disk that is full after so many blocks more: the caller is told, the image's bitmaps are as they were and in
  /// use, and the image goes on, and is closed without a leak.
  @Test(arguments: [512, 4096])
  func fullDiskLeavesTheOldBitmapsInUseAndTheImageSound(_ clusterByteCount: Int) async throws {
    let folder = try TemporaryFolder()
    try await LoopActor().run { _ in
      let file = try await Self.makeImage(clusterByteCount)
      var left = 0
      while true {
        let memory = MemoryDevice(file)
        let device = FullDevice(memory)
        let image = try await openToKeepBitmaps(device)
        try await image.markBitmapsInUse(.names("old", "last"))
        try await image.writeBytes([5], at: 5000)
        var stored = try await TestBitmap.load("old", from: image)
        let before = stored.bytes
        // Every other bit, so that all clusters of bits take storage, and refcount blocks too.
        for index in stored.bytes.indices { stored.bytes[index] = 0x55 }
        stored.isInUse = false
        let many = (0..<9).map { number in
          var other = stored
          other.name = [UInt8(number)]
          return BitmapChange.store(other)
        }
        device.blocksLeft = left
        var failure: BlockError?
        do throws(BlockError) { try await image.changeBitmaps([.store(stored)] + many) } catch { failure = error }
        if !device.wasHit { break }
        #expect(failure?.kind == .noSpace, "\(left) blocks")
        try await image.writeBytes([6], at: 6000)
        try await image.close()
        try memory.image.dump(to: folder.file("image"))
        if left % 8 == 0 { #expect(try Qemu.check(folder.file("image")) == .clean, "\(left) blocks") }
        let again = try await openToKeepBitmaps(MemoryDevice(memory.image))
        let state = try await Self.state(again)
        #expect(state.map(\.isInUse) == [true, false, true] && state[0].bytes == before, "\(left) blocks")
        #expect(try await again.readBytes(1, at: 6000) == [6])
        #expect(try await again.check().isClean, "\(left) blocks")
        left += 1
      }
      #expect(left > 20)
    }
  }

  /// The same where any call fails that may: some of them leave unknown what the file's tables hold.
  @Test(arguments: [512, 65536])
  func failureAtAnyCallLeavesTheOldBitmapsInUse(_ clusterByteCount: Int) async throws {
    let folder = try TemporaryFolder()
    try await LoopActor().run { _ in
      let file = try await Self.makeImage(clusterByteCount)
      let (beginning, _) = try await Self.rehearse(file)
      var cleanCount = 0
      let calls = try await forEachFault { call in
        let memory = MemoryDevice(file)
        let device = FaultyDevice(memory)
        let image = try await openToKeepBitmaps(device)
        try await image.markBitmapsInUse(.names("old", "last"))
        try await image.writeBytes([5], at: 0)
        try await image.flush()
        var stored = try await TestBitmap.load("old", from: image)
        stored.mark(0..<Self.byteCount)
        stored.bytes[0] = 1
        stored.isInUse = false
        device.fault = Fault(atCall: call, of: [.write, .resize], .noSpace)
        var failure: BlockError?
        do throws(BlockError) { try await image.changeBitmaps([.store(stored)]) } catch { failure = error }
        guard device.wasHit else { return false }
        if failure != nil {
          device.fault = nil
          var isLatched = false
          do { try await image.writeBytes([6], at: 1 << 20) } catch { isLatched = true }
          if !isLatched {
            cleanCount += 1
            #expect(failure?.kind == .noSpace, "call \(call)")
            try await image.close()
          } else {
            try? await image.close()
          }
          let again = try await openToKeepBitmaps(MemoryDevice(memory.image))
          let state = try await Self.state(again)
          #expect(state.map(\.isInUse) == [true, false, true], "call \(call)")
          #expect(state[0].bytes == beginning[0].bytes && state[2].bytes == beginning[2].bytes, "call \(call)")
          #expect(try await again.check().isClean || isLatched, "call \(call)")
          try memory.image.dump(to: folder.file("image"))
          #expect(try Qemu.check(folder.file("image")).corruptions == 0, "call \(call)")
        }
        return true
      }
      // Bits, table and directory.
      #expect(cleanCount >= 3 && calls > 3)
    }
  }
}
