import BlockFilters
import Model

extension CopyBeforeWrite.OnTempFull {
  init(_ wanted: OnTempFull) {
    self =
      switch wanted {
      case .breakBackup: .breakBackup
      case .throttle(let latency): .throttle(latency: .microseconds(Int64(latency)))
      case .breakGuestWrite: .breakGuestWrite
      }
  }
}
