import Model
import Orchestrator

/// A fleecing as the API shows it.
struct FleecingDocument: JSONWritable, Sendable {
  let view: FleecingView
  private let showsFigures: Bool

  init(_ view: FleecingView) {
    self.init(view, showsFigures: true)
  }

  private init(_ view: FleecingView, showsFigures: Bool) {
    self.view = view
    self.showsFigures = showsFigures
  }

  /// What there is to say of it besides what it does right now.
  var withoutFigures: FleecingDocument { FleecingDocument(view, showsFigures: false) }

  /// Figures change by themselves: they make no new version.
  var tag: String { EntityTag.of(JSONWriter.text(of: withoutFigures), revision: view.fleecing.revision) }

  func write(to json: inout JSONWriter) {
    let fleecing = view.fleecing
    json.object { json in
      json.member("id", fleecing.id)
      json.member("state", fleecing.state)
      json.member("images", fleecing.images.map { part(of: $0) })
      json.member("listen", fleecing.listen)
      json.member("tls", fleecing.tls)
      json.member("release", fleecing.release)
      json.member("access", fleecing.access)
      json.member("since", fleecing.since)
      json.member("tracker", fleecing.tracker)
      json.member("checkpoint", fleecing.checkpoint)
      json.member("label", fleecing.label)
      json.member("pointInTime", fleecing.pointInTime)
      json.member("createdAt", fleecing.createdAt)
      json.member("expiresAt", fleecing.expiresAt)
      json.member("endedAt", fleecing.endedAt)
      json.member("outcome", fleecing.outcome)
      json.member("why", fleecing.error?.detail)
      json.member("error", fleecing.error.map { ProblemDocument($0, fleecing: fleecing.id) })
    }
  }

  private func part(of part: Fleecing.Part) -> FleecingPartDocument {
    FleecingPartDocument(
      fleecing: view.fleecing, part: part, showsFigures: showsFigures, activity: view.activity?.parts[part.image])
  }
}

extension Fleecing.Base: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      switch self {
      case .bitmap(let name): json.member(name, as: "bitmap")
      case .backup(let id): json.member("backup", id)
      case .checkpoint(let id): json.member("checkpoint", id)
      }
    }
  }
}

/// One image's part.
private struct FleecingPartDocument: JSONWritable {
  let fleecing: Fleecing
  let part: Fleecing.Part
  let showsFigures: Bool
  let activity: FleecingActivity.Part?

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("image", part.image)
      json.member("imageName", part.imageName)
      json.member("export", fleecing.exportName(of: part))
      json.member("uri", fleecing.uri(of: part))
      json.member("virtualSize", part.virtualSize)
      json.member("context", fleecing.since.map { "qemu:dirty-bitmap:\($0.contextName)" })
      json.member("dirtyBytes", part.dirtyBytes)
      json.member("tracked", part.tracked != nil)
      guard showsFigures else { return }
      json.member("clients", activity?.clients ?? 0)
      json.member("reads", activity?.reads)
      json.member("temp", activity.map { KeptDocument(activity: $0) })
    }
  }
}

/// Old bytes that are kept for a view.
private struct KeptDocument: JSONWritable {
  let activity: FleecingActivity.Part

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("bytes", activity.keptBytes)
      json.member("highWater", activity.keptHighWater)
    }
  }
}

extension FleecedExtent: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("offset", offset)
      json.member("length", length)
    }
  }
}
