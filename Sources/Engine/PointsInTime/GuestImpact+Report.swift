import BlockFilters
import Model
import NBD

extension GuestImpact {
  init(_ report: CopyBeforeWriteReport, latencyBefore: LatencyHistogram, during: LatencyHistogram) {
    func microseconds(_ duration: Duration) -> UInt64 { UInt64(max(0, duration / .microseconds(1))) }
    self.init(
      copyCount: report.copyCount, copiedBytes: report.copiedByteCount,
      waits: Waits(
        count: report.waits.count, p50Microseconds: microseconds(report.waits.quantile(0.5)),
        p99Microseconds: microseconds(report.waits.quantile(0.99)),
        maxMicroseconds: microseconds(report.waits.longest)),
      memoryHighWater: UInt64(report.memoryHighWaterByteCount), tempHighWater: report.tempHighWaterByteCount,
      throttledSeconds: report.throttled / .seconds(1), sourceBytesRead: report.sourceByteCount,
      latencyBefore: Latency(latencyBefore), latencyDuring: Latency(during))
  }
}
