/// How a backup treats the guest that writes to its image meanwhile, where there is no room for what the guest changes.
package struct GuestCourtesy: Hashable, Sendable, Codable {
  package enum OnTempFull: String, Hashable, Sendable, Codable, CaseIterable {
    /// The backup fails, and the guest goes on.
    case breakBackup
    /// The guest's write waits for room, for so long at most; then the backup fails, and the guest goes on.
    case throttle
    /// The guest's write fails, and the backup goes on.
    case breakGuestWrite
  }

  package var onTempFull: OnTempFull
  /// With `throttle`.
  package var throttleLatencyMicroseconds: UInt64

  package static let throttleLatencies: ClosedRange<UInt64> = 1...60_000_000
  /// Unless the request says otherwise: half a second, that of a slow disk.
  package static let standardThrottleLatency: UInt64 = 500_000

  package init(
    onTempFull: OnTempFull = .breakBackup, throttleLatencyMicroseconds: UInt64 = Self.standardThrottleLatency
  ) {
    self.onTempFull = onTempFull
    self.throttleLatencyMicroseconds = throttleLatencyMicroseconds
  }
}
