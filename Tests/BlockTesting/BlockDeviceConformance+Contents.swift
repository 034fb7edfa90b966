import BlockCore
import Buffers

/// That what is read is what was written, zeroed or left alone.
extension BlockDeviceConformance {
  func readsWhatWasWrittenAtEveryEdge(_ seed: UInt64) async throws {
    try await withFilledDevice(seed) { device, model, random in
      for range in edgeRanges(of: device) {
        let bytes = random.bytes(Int(range.length))
        try await device.writeBytes(bytes, at: range.offset)
        model.write(bytes, at: range.offset)
        try await model.check(device, surroundings(of: range, device), "after a write to \(range), \(random)")
      }
      try await model.check(device, "after all writes, \(random)")
    }
  }

  /// The port asks nothing of memory's alignment.
  func takesAnyMemory(_ seed: UInt64) async throws {
    try await withFilledDevice(seed) { device, model, random in
      let unit = max(device.limits.requestAlignment, 512)
      for shift in [1, 8, 513] {
        var buffer = PageBuffer(byteCount: unit + shift)
        var memory = buffer.mutableBytes
        let bytes = random.bytes(unit)
        memory.copy(from: bytes.span.bytes, at: shift)
        let place = UInt64(unit * (shift % 7))
        try await device.write(buffer.bytes.extracting(shift..<shift + unit), at: place)
        model.write(bytes, at: place)
        var target = buffer.mutableBytes
        target.zero()
        var part = target.part(shift..<shift + unit)
        try await device.read(into: &part, at: place)
        let found = buffer.bytes.extracting(shift..<shift + unit).withUnsafeBytes { [UInt8]($0) }
        try expect(found == bytes, "bytes differ through memory at page + \(shift), \(random)")
        let rest = buffer.bytes.extracting(0..<shift)
        try expect(rest.isZero, "a read wrote before its buffer")
      }
      try await model.check(device, "after unaligned memory, \(random)")
    }
  }

  func writeZeroesChangesJustItsRange(_ seed: UInt64) async throws {
    let optionSets: [ZeroOptions] = [[], .mayUnmap, .forceUnitAccess, [.mayUnmap, .onlyIfFast], .onlyIfFast]
    for options in optionSets {
      try await withFilledDevice(seed) { device, model, random in
        for range in edgeRanges(of: device) {
          do {
            try await device.writeZeroes(range, options: options)
            model.zero(range)
          } catch let error as BlockError where error.kind == .notFast && options.contains(.onlyIfFast) {
            // Refused: then nothing has changed.
          }
          let what = "after zeroes (options \(options.rawValue)) to \(range), \(random)"
          try await model.check(device, surroundings(of: range, device), what)
        }
        try await model.check(device, "after all zeroes, \(random)")
        try await checkStatus(device, model, ByteRange(offset: 0, length: device.byteCount), limit: 1000)
      }
    }
  }

  func discardChangesJustItsRange(_ seed: UInt64) async throws {
    try await withFilledDevice(seed) { device, model, random in
      guard traits.discards else {
        return try await expectFailure([.notSupported], "discard") { () async throws(BlockError) in
          try await device.discard(ByteRange(offset: 0, length: device.byteCount))
        }
      }
      for range in edgeRanges(of: device) {
        try await device.discard(range)
        try await adopt(range, of: device, &model)
        try await model.check(device, surroundings(of: range, device), "after discard of \(range), \(random)")
        // A discarded range takes writes like any other.
        let bytes = random.bytes(
          Int(range.length) / 2 / device.limits.requestAlignment * device.limits.requestAlignment)
        try await device.writeBytes(bytes, at: range.offset)
        model.write(bytes, at: range.offset)
      }
      try await model.check(device, "after all discards, \(random)")
      try await checkStatus(device, model, ByteRange(offset: 0, length: device.byteCount), limit: 1000)
    }
  }

  func tryReadAgreesWithRead(_ seed: UInt64) async throws {
    try await withFilledDevice(seed) { device, model, random in
      try await device.writeZeroes(ByteRange(offset: 0, length: device.byteCount / 4 / 4096 * 4096), options: .mayUnmap)
      model.zero(ByteRange(offset: 0, length: device.byteCount / 4 / 4096 * 4096))
      for range in edgeRanges(of: device) {
        try checkTryRead(device, model, range, random)
        try await model.check(device, range, "after a tryRead, \(random)")
        try checkTryRead(device, model, range, random)
      }
      try await model.check(device, "after all tries, \(random)")
    }
  }

  /// A `tryRead` that answers must answer as the model does.
  func checkTryRead(
    _ device: any BlockDevice, _ model: ByteModel, _ range: ByteRange, _ random: SeededRandom
  ) throws {
    guard range.length <= UInt64(device.limits.maximumTransferByteCount) else { return }
    var found = [UInt8](repeating: 0xA5, count: Int(range.length))
    var all = found.mutableSpan
    var span = all.mutableBytes
    guard try device.tryRead(into: &span, at: range.offset) else { return }
    let place = model.firstDifference(from: found, at: range.offset)
    try expect(place == nil, "tryRead of \(range) is wrong at byte \(place ?? 0), \(random)")
  }

  func flushedContentsOutliveReopening(_ seed: UInt64) async throws {
    var random = SeededRandom(seed: seed)
    var model = ByteModel(byteCount: traits.byteCount)
    var device = try await make(traits.byteCount)
    for round in 0..<3 {
      for range in edgeRanges(of: device).shuffled(using: &random).prefix(12) {
        let bytes = random.bytes(Int(range.length))
        try await device.writeBytes(bytes, at: range.offset, options: random.oneIn(3) ? .forceUnitAccess : [])
        model.write(bytes, at: range.offset)
        if random.oneIn(3) {
          try await device.writeZeroes(range, options: random.oneIn(2) ? .mayUnmap : [])
          model.zero(range)
        }
      }
      // The second time, closing by itself must write back what is held.
      if round != 1 { try await device.flush() }
      try await model.check(device, "after flush, \(random)")
      guard let reopen else { continue }
      try await device.close()
      device = try await reopen(device)
      try await model.check(device, "reopened, \(random)")
    }
    try await device.close()
  }

  func resizeNeverShowsOldBytes(_ seed: UInt64) async throws {
    try await withFilledDevice(seed) { device, model, random in
      let unit = UInt64(device.limits.lengthAlignment)
      let whole = device.byteCount
      guard traits.resizes else {
        try await expectFailure([.notSupported], "resize") { () async throws(BlockError) in
          try await device.resize(to: whole * 2)
        }
        return try await model.check(device, "after a refused resize")
      }
      let block = UInt64(device.limits.preferredByteCount)
      let steps = [whole + unit, whole / 2 / unit * unit + unit, whole + block, block, 2 * block + unit, whole]
      for size in steps {
        let old = device.byteCount
        try await device.resize(to: size)
        model.resize(to: size)
        try expect(device.byteCount == size, "resized to \(device.byteCount), not \(size)")
        try await model.check(device, "resized from \(old) to \(size), \(random)")
        try await checkStatus(device, model, ByteRange(offset: 0, length: size), limit: 1000)
        try await expectFailure([.outOfRange], "a read past the new end") { () async throws(BlockError) in
          _ = try await device.readBytes(Int(unit), at: size)
        }
        let bytes = random.bytes(Int(unit))
        try await device.writeBytes(bytes, at: size - unit)
        model.write(bytes, at: size - unit)
      }
      try await device.flush()
    }
  }

  /// Ranges that begin and end on, just before and just after the edges of the device's preferred blocks, among them
  /// the first and the last bytes of the device.
  func edgeRanges(of device: any BlockDevice) -> [ByteRange] {
    let unit = UInt64(device.limits.requestAlignment)
    let block = max(UInt64(device.limits.preferredByteCount), 4 * unit)
    let size = device.byteCount
    let last = size / block * block
    let starts: [UInt64] = [
      0, unit, block - unit, block, block + unit, 3 * block - unit, last - min(last, block), last,
    ]
    let lengths: [UInt64] = [unit, 2 * unit, block - unit, block, block + unit, 2 * block, 2 * block + 2 * unit]
    var ranges: [ByteRange] = []
    for start in starts where start < size {
      for length in lengths { ranges.append(ByteRange(start..<min(size, start + length))) }
    }
    return ranges + [ByteRange(size - unit..<size)]
  }

  /// `range` and a block on both sides.
  private func surroundings(of range: ByteRange, _ device: any BlockDevice) -> ByteRange {
    let margin = UInt64(max(device.limits.preferredByteCount, device.limits.requestAlignment))
    let unit = UInt64(device.limits.requestAlignment)
    let start = (range.offset - min(range.offset, margin)) / unit * unit
    return ByteRange(start..<min(device.byteCount, range.end + margin))
  }
}
