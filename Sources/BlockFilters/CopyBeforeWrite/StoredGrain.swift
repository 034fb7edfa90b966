import BlockCore

/// The kept bytes of a grain, in memory or in the temp. Points in time that began before the same change share it.
final class StoredGrain: @unchecked Sendable {
  // Safe to hand over: confined to the loop of its image.

  let range: ByteRange
  /// Points that read it; with the last one it is freed.
  var userCount = 0
  /// Until it has been written to the temp, if it ever is.
  var memory: GrainBytes?
  /// Its place in the temp.
  var slot: UInt64?
  /// Its place in the order of what lies in memory.
  var turn: UInt64?

  init(_ range: ByteRange, memory: GrainBytes? = nil, slot: UInt64? = nil) {
    self.range = range
    self.memory = memory
    self.slot = slot
  }
}
