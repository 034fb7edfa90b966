import Model
import Orchestrator

/// A checkpoint as the API shows it.
struct CheckpointDocument: JSONWritable, Sendable {
  let view: CheckpointView

  init(_ view: CheckpointView) {
    self.view = view
  }

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("id", view.checkpoint)
      json.member("tracker", view.tracker)
      json.member("backup", view.backup.id)
      json.member("backupState", view.backup.state)
      json.member("repository", view.backup.repository)
      json.member("repositoryName", view.repositoryName)
      json.member("granularity", view.backup.granularity)
      json.member("pointInTime", view.backup.pointInTime)
    }
  }
}
