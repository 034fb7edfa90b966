/// What happens to a guest's write when there is no room for what a backup needs of what it changes.
package enum OnTempFull: Hashable, Sendable, Codable {
  /// The backup fails, and the guest goes on.
  case breakBackup
  /// The guest's write waits for room, for so long at most; then the backup fails, and the guest goes on.
  case throttle(latencyMicroseconds: UInt64)
  /// The guest's write fails, and the backup goes on.
  case breakGuestWrite

  package static let throttleLatencies: ClosedRange<UInt64> = 1...60_000_000
  /// Unless the request says otherwise: half a second, that of a slow disk.
  package static let standardThrottleLatency: UInt64 = 500_000
}
