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

/// A tracker as the API shows it.
extension TrackerView: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("name", name)
      json.member("checkpoint", checkpoint)
      json.member("lastBackup", lastBackup)
      json.member("bitmap", bitmap)
      json.member("repository", repository)
      json.member("state", state)
      json.member("owner", owner)
    }
  }
}

extension TrackerView.State: JSONWritable {}
extension TrackerView.Owner: JSONWritable {}

/// The trackers of an image: there are few, and all are shown.
struct TrackerListDocument: JSONWritable, Sendable {
  let items: [TrackerView]

  func write(to json: inout JSONWriter) {
    json.object { $0.member("items", items) }
  }
}

/// What stays in the file of an image that was unregistered.
struct TrackingLeftDocument: JSONWritable, Sendable {
  let unregistered: UnregisteredImage

  func write(to json: inout JSONWriter) {
    let removal = unregistered.removal
    json.object { json in
      json.member("image", unregistered.image.id)
      json.member("imageName", unregistered.image.name)
      json.member("bitmapsRemoved", removal.removed)
      json.member("bitmapsLeft", removal.left)
      json.member("why", removal.failure?.detail)
      json.member("commands", removal.commands(path: unregistered.image.source.place))
    }
  }
}
