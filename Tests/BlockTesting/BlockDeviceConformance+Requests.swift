import BlockCore
import Buffers

/// Which requests a device takes, and which it refuses.
extension BlockDeviceConformance {
  func newDeviceReadsAsZeroes() async throws {
    try await withDevice { device in
      try await ByteModel(byteCount: traits.byteCount).check(device, "a new device")
    }
  }

  func requestsPastTheEndFail() async throws {
    try await withFilledDevice(1) { device, model, _ in
      let unit = UInt64(device.limits.requestAlignment)
      let end = device.byteCount
      let farthest = UInt64.max / unit * unit - unit
      for (offset, count) in [(end, unit), (end - unit, 2 * unit), (farthest, unit)] {
        let range = ByteRange(offset: offset, length: count)
        try await expectEachFails([.outOfRange], device, range, "past the end")
      }
      // The end of this one overflows 64 bits, so there is no range to name it.
      let last = UInt64.max / unit * unit
      try await expectFailure([.outOfRange], "a read whose end overflows") { () async throws(BlockError) in
        _ = try await device.readBytes(Int(2 * unit), at: last)
      }
      try await expectFailure([.outOfRange], "a write whose end overflows") { () async throws(BlockError) in
        try await device.writeBytes([UInt8](repeating: 1, count: Int(2 * unit)), at: last)
      }
      try await model.check(device, "after refused requests")
    }
  }

  func emptyRequestsSucceed() async throws {
    try await withFilledDevice(2) { device, model, _ in
      for offset in [0, device.byteCount] {
        let empty = ByteRange(offset: offset, length: 0)
        try await transfer(device, PageBuffer(byteCount: 1), 0, at: offset)
        try await device.writeZeroes(empty, options: [])
        try await device.writeZeroes(empty, options: [.mayUnmap, .forceUnitAccess])
        if traits.discards { try await device.discard(empty) }
        let extents = try await device.blockStatus(empty, limit: 1)
        try expect(extents.isEmpty, "the status of no bytes is \(extents)")
      }
      try await model.check(device, "after empty requests")
    }
  }

  func misalignedAndTooLongRequestsFail() async throws {
    try await withFilledDevice(3) { device, model, _ in
      let unit = UInt64(device.limits.requestAlignment)
      if unit > 1 {
        for (offset, count) in [(1, unit), (0, unit - 1), (unit, unit + 1), (unit / 2, unit / 2)] {
          let range = ByteRange(offset: offset, length: count)
          try await expectEachFails([.misaligned], device, range, "misaligned")
        }
      }
      let tooLong = UInt64(device.limits.maximumTransferByteCount) + unit
      if tooLong <= device.byteCount {
        let range = ByteRange(offset: 0, length: tooLong)
        try await expectFailure([.notSupported], "a read that is too long") { () async throws(BlockError) in
          try await read(device, range)
        }
        try await expectFailure([.notSupported], "a write that is too long") { () async throws(BlockError) in
          try await write(device, range)
        }
      }
      try await model.check(device, "after refused requests")
    }
  }

  func readOnlyDeviceRefusesChanges() async throws {
    guard let makeReadOnly else { return }
    let device = try await makeReadOnly(traits.byteCount)
    let range = ByteRange(offset: 0, length: UInt64(device.limits.requestAlignment))
    try expect(device.isReadOnly, "a device opened read-only doesn't say so")
    try await expectChangesFail([.readOnly], device, range, "of a read-only device")
    try await expectFailure([.readOnly, .notSupported], "resize of a read-only device") { () async throws(BlockError) in
      try await device.resize(to: traits.byteCount * 2)
    }
    try await ByteModel(byteCount: traits.byteCount).check(device, "a read-only device")
    try await device.flush()
    try await device.close()
  }

  func closedDeviceRefusesEverything() async throws {
    let device = try await make(traits.byteCount)
    let range = ByteRange(offset: 0, length: UInt64(device.limits.requestAlignment))
    try await write(device, range)
    try await device.close()
    try await expectEachFails([.closed], device, range, "after close")
    try await expectFailure([.closed], "flush after close") { () async throws(BlockError) in
      try await device.flush()
    }
    try await expectFailure([.closed], "resize after close") { () async throws(BlockError) in
      try await device.resize(to: traits.byteCount * 2)
    }
    try await device.close()
  }

  /// Every operation that names bytes must fail with one of `kinds`.
  private func expectEachFails(
    _ kinds: Set<BlockError.Kind>, _ device: any BlockDevice, _ range: ByteRange, _ why: String
  ) async throws {
    try await expectFailure(kinds, "a read of \(range) \(why)") { () async throws(BlockError) in
      try await read(device, range)
    }
    try await expectFailure(kinds, "a tryRead of \(range) \(why)") { () async throws(BlockError) in
      try tryRead(device, range)
    }
    try await expectFailure(kinds, "the status of \(range) \(why)") { () async throws(BlockError) in
      _ = try await device.blockStatus(range, limit: 1)
    }
    try await expectChangesFail(kinds, device, range, why)
  }

  private func expectChangesFail(
    _ kinds: Set<BlockError.Kind>, _ device: any BlockDevice, _ range: ByteRange, _ why: String
  ) async throws {
    try await expectFailure(kinds, "a write of \(range) \(why)") { () async throws(BlockError) in
      try await write(device, range)
    }
    try await expectFailure(kinds, "zeroes to \(range) \(why)") { () async throws(BlockError) in
      try await device.writeZeroes(range, options: .mayUnmap)
    }
    let discardKinds = traits.discards ? kinds : kinds.union([.notSupported])
    try await expectFailure(discardKinds, "discard of \(range) \(why)") { () async throws(BlockError) in
      try await device.discard(range)
    }
  }

  private func read(_ device: any BlockDevice, _ range: ByteRange) async throws(BlockError) {
    var buffer = PageBuffer(byteCount: Int(range.length))
    var bytes = buffer.mutableBytes
    var part = bytes.part(0..<Int(range.length))
    try await device.read(into: &part, at: range.offset)
  }

  private func tryRead(_ device: any BlockDevice, _ range: ByteRange) throws(BlockError) {
    var buffer = PageBuffer(byteCount: Int(range.length))
    var bytes = buffer.mutableBytes
    var part = bytes.part(0..<Int(range.length))
    _ = try device.tryRead(into: &part, at: range.offset)
  }

  private func write(_ device: any BlockDevice, _ range: ByteRange) async throws(BlockError) {
    let buffer = PageBuffer(byteCount: Int(range.length))
    try await device.write(buffer.bytes.extracting(0..<Int(range.length)), at: range.offset)
  }

  /// Reads and writes back `count` bytes.
  private func transfer(
    _ device: any BlockDevice, _ buffer: consuming PageBuffer, _ count: Int, at offset: UInt64
  ) async throws {
    var bytes = buffer.mutableBytes
    var part = bytes.part(0..<count)
    try await device.read(into: &part, at: offset)
    try await device.write(buffer.bytes.extracting(0..<count), at: offset)
  }
}
