import BlockCore
import Buffers

/// What a device says of its bytes.
extension BlockDeviceConformance {
  func statusCoversItsRange(_ seed: UInt64) async throws {
    try await withPatchwork(seed) { device, model, random in
      let unit = device.limits.requestAlignment
      for round in 0..<60 {
        let range = random.range(
          within: device.byteCount, alignment: unit, maximum: Int(device.byteCount),
          near: device.limits.preferredByteCount)
        try await checkStatus(device, model, ByteRange(range), limit: [1, 2, 3, 1000][round % 4])
      }
      try await model.check(device, "after asking for the status, \(random)")
    }
  }

  func statusTellsZeroesTruly(_ seed: UInt64) async throws {
    try await withPatchwork(seed) { device, model, random in
      try await checkStatus(device, model, ByteRange(offset: 0, length: device.byteCount), limit: 1000)
      let block = UInt64(device.limits.preferredByteCount)
      guard traits.tellsZeroes, device.byteCount >= 8 * block else { return }
      let zeroed = ByteRange(offset: 2 * block, length: 2 * block)
      try await device.writeZeroes(zeroed, options: .mayUnmap)
      model.zero(zeroed)
      let written = ByteRange(offset: 5 * block, length: 2 * block)
      let bytes = random.bytes(Int(written.length))
      try await device.writeBytes(bytes, at: written.offset)
      model.write(bytes, at: written.offset)
      let zeroes = try await device.wholeStatus(zeroed)
      try expect(zeroes.allSatisfy(\.readsAsZero), "zeroed blocks are told as \(zeroes), \(random)")
      let others = try await device.wholeStatus(written)
      try expect(!others.contains(where: \.readsAsZero), "written blocks are told as \(others), \(random)")
    }
  }

  /// Asks for the status of `range` piece by piece, and checks each answer's shape and its zeroes.
  func checkStatus(_ device: any BlockDevice, _ model: ByteModel, _ range: ByteRange, limit: Int) async throws {
    var offset = range.offset
    while offset < range.end {
      let asked = ByteRange(offset..<range.end)
      let extents = try await device.blockStatus(asked, limit: limit)
      try expect(!extents.isEmpty && extents.count <= limit, "\(extents.count) extents of \(asked), limit \(limit)")
      for (index, extent) in extents.enumerated() {
        try expect(extent.range.offset == offset, "\(extent.range) follows on \(offset) in the status of \(asked)")
        try expect(!extent.range.isEmpty && extent.range.end <= range.end, "\(extent.range) in the status of \(asked)")
        try expect(extent.depth >= 0, "depth \(extent.depth)")
        if index > 0 {
          try expect(!extents[index - 1].continues(with: extent), "neighbours aren't joined at \(offset)")
        }
        if extent.readsAsZero { try expectZero(model, extent.range) }
        offset = extent.range.end
      }
    }
  }

  /// After a discard the contents are the device's choice: takes them over, and holds the status against them.
  func adopt(_ range: ByteRange, of device: any BlockDevice, _ model: inout ByteModel) async throws {
    let bytes = try await device.readBytes(Int(range.length), at: range.offset)
    model.write(bytes, at: range.offset)
    try await checkStatus(device, model, range, limit: 1000)
  }

  private func expectZero(_ model: ByteModel, _ range: ByteRange) throws {
    let isZero = model.bytes.span.bytes.extracting(Int(range.offset)..<Int(range.end)).isZero
    try expect(isZero, "\(range) is told as zero and isn't")
  }

  /// A device with data, zeroes and holes of many lengths.
  private func withPatchwork(
    _ seed: UInt64,
    _ body: (any BlockDevice, inout ByteModel, inout SeededRandom) async throws -> Void
  ) async throws {
    var random = SeededRandom(seed: seed)
    var model = ByteModel(byteCount: traits.byteCount)
    try await withDevice { device in
      for round in 0..<40 {
        let range = ByteRange(
          random.range(
            within: device.byteCount, alignment: device.limits.requestAlignment,
            maximum: 4 * device.limits.preferredByteCount, near: device.limits.preferredByteCount))
        switch round % 4 {
        case 0:
          try await device.writeZeroes(range, options: [])
          model.zero(range)
        case 1:
          try await device.writeZeroes(range, options: .mayUnmap)
          model.zero(range)
        case 2 where traits.discards:
          try await device.discard(range)
          try await adopt(range, of: device, &model)
        default:
          let bytes = random.bytes(Int(range.length))
          try await device.writeBytes(bytes, at: range.offset)
          model.write(bytes, at: range.offset)
        }
      }
      try await body(device, &model, &random)
    }
  }
}
