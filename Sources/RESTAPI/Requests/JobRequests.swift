import Foundation
import Model
import Orchestrator

extension RequestFields {
  /// The body that pauses a job: `until` is left out for the standard length, and null for no end.
  func pauseLength() throws(DomainError) -> PauseLength {
    let until = any("until", required: false)
    var length = PauseLength.standard
    switch until {
    case nil: break
    case .null: length = .withoutEnd
    case .string(let text):
      if let date = Timestamp.date(of: text) {
        length = .until(date)
      } else {
        refuse("until", "must be a time as 2026-03-01T08:05:09.120Z, or null")
      }
    default: refuse("until", "must be a time as 2026-03-01T08:05:09.120Z, or null")
    }
    try finish()
    return length
  }
}
