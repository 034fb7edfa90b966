import Model
import Orchestrator
import Schedules

/// What schedules mean, and when they run.
struct SchedulePreviewDocument: JSONWritable {
  let preview: SchedulePreview

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("items", preview.runs)
      json.member("timeZone", preview.timeZone)
      json.member("normalized", preview.schedules.map(\.normalized))
      json.member("inWords", preview.schedules.map(\.inWords))
    }
  }
}

extension PlannedRun: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("at", localText)
      json.member("atUTC", at.date)
      json.member("shifted", clockChange?.shiftedInWords)
      json.member("repeated", clockChange?.repeatedInWords)
    }
  }
}
