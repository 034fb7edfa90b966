import BlockCore
import Buffers

/// Seeded stories: many operations, alone and at the same time.
extension BlockDeviceConformance {
  func randomOperationsMatchTheModel(_ seed: UInt64) async throws {
    for round in 0..<TestEffort.rounds(2) {
      var story = Story(random: SeededRandom(seed: seed &* 1000 &+ UInt64(round)), byteCount: traits.byteCount)
      try await withDevice { device in
        for _ in 0..<150 { try await step(of: &story, device) }
        try await device.flush()
        try await story.model.check(device, "at the end, \(story.random)")
        try await checkStatus(device, story.model, ByteRange(offset: 0, length: device.byteCount), limit: 1000)
      }
    }
  }

  /// Tasks with ranges of their own, several of them in each preferred block, must not disturb one another.
  func concurrentRequestsKeepToTheirRanges(_ seed: UInt64, _ isolation: (any Actor)?) async throws {
    // A parameter, as `#isolation ?? …` in a nonsending function is miscompiled (crashes in Swift 6.3).
    let home: any Actor = isolation ?? LoopActor()
    let device = try await make(traits.byteCount)
    let lanes = lanes(of: device, seed)
    let start = StartLine(lanes.count)
    let outcomes = await withTaskGroup { group in
      for lane in lanes {
        group.addTask { await lane.run(device, from: start, on: home) }
      }
      return await group.reduce(into: []) { $0.append($1) }
    }
    for outcome in outcomes { try outcome.get() }
    try await device.flush()
    try await device.close()
  }

  private func lanes(of device: any BlockDevice, _ seed: UInt64) -> [Lane] {
    let unit = device.limits.requestAlignment
    let block = min(device.limits.preferredByteCount, Int(device.byteCount) / 16)
    let byteCount = max(unit, block / 3 / unit * unit)
    return (0..<min(12, Int(device.byteCount) / byteCount)).map { index in
      Lane(
        range: ByteRange(offset: UInt64(index * byteCount), length: UInt64(byteCount)),
        random: SeededRandom(seed: seed &* 1000 &+ UInt64(index)))
    }
  }

  private struct Story {
    var random: SeededRandom
    var model: ByteModel

    init(random: SeededRandom, byteCount: UInt64) {
      self.random = random
      model = ByteModel(byteCount: byteCount)
    }
  }

  private func step(of story: inout Story, _ device: any BlockDevice) async throws {
    let range = ByteRange(
      story.random.range(
        within: device.byteCount, alignment: device.limits.requestAlignment,
        maximum: 3 * device.limits.preferredByteCount, near: device.limits.preferredByteCount))
    switch story.random.below(16) {
    case 0..<6:
      let bytes = story.random.bytes(Int(range.length))
      try await device.writeBytes(bytes, at: range.offset, options: story.random.oneIn(8) ? .forceUnitAccess : [])
      story.model.write(bytes, at: range.offset)
    case 6, 7:
      try await device.writeZeroes(range, options: story.random.oneIn(2) ? .mayUnmap : [])
      story.model.zero(range)
    case 8 where traits.discards:
      try await device.discard(range)
      try await adopt(range, of: device, &story.model)
    case 9:
      try checkTryRead(device, story.model, range, story.random)
    case 10:
      try await checkStatus(device, story.model, range, limit: 1 + story.random.below(5))
    case 11 where story.random.oneIn(4):
      try await device.flush()
    case 12 where traits.resizes && story.random.oneIn(4):
      let unit = UInt64(device.limits.lengthAlignment)
      let size = ByteRange(0..<max(range.end, traits.byteCount / 2 / 4096 * 4096)).aligned(to: unit).length
      try await device.resize(to: size)
      story.model.resize(to: size)
    default:
      try await story.model.check(device, range, "a read, \(story.random)")
    }
  }
}

/// One task's share of a device.
private struct Lane: Sendable {
  let range: ByteRange
  let random: SeededRandom

  func run(
    _ device: any BlockDevice, from start: StartLine, on home: isolated any Actor
  ) async -> Result<Void, any Error> {
    await start.arrive(on: home)
    do {
      return .success(try await run(device))
    } catch {
      return .failure(error)
    }
  }

  private func run(_ device: any BlockDevice) async throws {
    var random = random
    // Only the lane's own bytes are looked at.
    var model = ByteModel(byteCount: range.end)
    for _ in 0..<30 {
      let inLane = random.range(
        within: range.length, alignment: device.limits.requestAlignment, maximum: Int(range.length), near: 512)
      let part = ByteRange(offset: range.offset + inLane.lowerBound, length: UInt64(inLane.count))
      switch random.below(4) {
      case 0, 1:
        let bytes = random.bytes(Int(part.length))
        try await device.writeBytes(bytes, at: part.offset)
        model.write(bytes, at: part.offset)
      case 2:
        try await device.writeZeroes(part, options: random.oneIn(2) ? .mayUnmap : [])
        model.zero(part)
      default:
        try await model.check(device, part, "a lane among others, \(random)")
      }
    }
    try await model.check(device, range, "a lane at its end, \(random)")
  }
}

/// Where lanes wait for each other. On a busy machine one could have ended before the next began, and so have met none.
private final class StartLine: @unchecked Sendable {
  // Safe to share: it is touched on the lanes' home alone.
  private var missingCount: Int
  private var waiting: [CheckedContinuation<Void, Never>] = []

  init(_ count: Int) { missingCount = count }

  /// Returns when all have arrived: by then each is in the home's queue.
  func arrive(on home: isolated any Actor) async {
    missingCount -= 1
    guard missingCount > 0 else {
      for lane in waiting { lane.resume() }
      waiting = []
      return
    }
    await withCheckedContinuation { waiting.append($0) }
  }
}
