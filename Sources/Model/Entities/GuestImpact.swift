/// What a backup cost the guest that wrote to its image meanwhile.
package struct GuestImpact: Hashable, Sendable, Codable {
  /// How long writes waited until what they change was kept. A quantile is at most 25 % too high.
  package struct Waits: Hashable, Sendable, Codable {
    /// Writes that waited.
    package var count: UInt64
    package var p50Microseconds: UInt64
    package var p99Microseconds: UInt64
    package var maxMicroseconds: UInt64

    package init(count: UInt64, p50Microseconds: UInt64, p99Microseconds: UInt64, maxMicroseconds: UInt64) {
      self.count = count
      self.p50Microseconds = p50Microseconds
      self.p99Microseconds = p99Microseconds
      self.maxMicroseconds = maxMicroseconds
    }
  }

  /// How long the guest's reads and writes took, from their arrival at an export to the answer. A quantile is at most 25 %
  /// too high.
  package struct Latency: Hashable, Sendable, Codable {
    package var count: UInt64
    package var p50Microseconds: UInt64
    package var p99Microseconds: UInt64

    package init(count: UInt64, p50Microseconds: UInt64, p99Microseconds: UInt64) {
      self.count = count
      self.p50Microseconds = p50Microseconds
      self.p99Microseconds = p99Microseconds
    }
  }

  /// Grains that were read and kept because a write was about to change them, and their bytes.
  package var copyCount: UInt64
  package var copiedBytes: UInt64
  package var waits: Waits
  /// The most bytes that were kept at one time, in memory and in the temp.
  package var memoryHighWater: UInt64
  package var tempHighWater: UInt64
  /// How long writes waited for room, all together.
  package var throttledSeconds: Double
  /// Bytes that were read of the image, for the backup and for what was kept.
  package var sourceBytesRead: UInt64
  /// Since the end of the last backup of the image, or since it was attached, until the moment; nil if there was no request.
  package var latencyBefore: Latency?
  /// From the moment until all was read.
  package var latencyDuring: Latency?

  package init(
    copyCount: UInt64, copiedBytes: UInt64, waits: Waits, memoryHighWater: UInt64, tempHighWater: UInt64,
    throttledSeconds: Double, sourceBytesRead: UInt64, latencyBefore: Latency? = nil, latencyDuring: Latency? = nil
  ) {
    self.copyCount = copyCount
    self.copiedBytes = copiedBytes
    self.waits = waits
    self.memoryHighWater = memoryHighWater
    self.tempHighWater = tempHighWater
    self.throttledSeconds = throttledSeconds
    self.sourceBytesRead = sourceBytesRead
    self.latencyBefore = latencyBefore
    self.latencyDuring = latencyDuring
  }
}
