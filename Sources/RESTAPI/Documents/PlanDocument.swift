import Model
import Orchestrator

/// What a change would do: the answer to `dryRun`.
struct PlanDocument: JSONWritable {
  let plan: Plan

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("dryRun", true)
      json.member("action", plan.action)
      json.member("steps", plan.steps)
      json.member("warnings", plan.warnings)
      json.member("resource", plan.resource)
    }
  }
}

extension PlannedResource: JSONWritable {
  /// In the order of the names.
  func write(to json: inout JSONWriter) {
    json.object { json in
      switch self {
      case .image(let image):
        json.member("exclusive", image.isExclusive)
        json.member("format", image.format)
        json.member("labels", image.labels)
        json.member("name", image.name)
        json.member("path", image.source.place)
        json.member("virtualSize", image.virtualSize)
      case .repository(let draft):
        json.member("kind", draft.kind)
        json.member("name", draft.name)
        json.member("path", draft.path)
      case .export(let export): Self.write(export, to: &json)
      case .fleecing(let fleecing, let lifetime):
        json.member("access", fleecing.access)
        json.member("expiresIn", lifetime)
        json.member("images", fleecing.images.map(\.image))
        json.member("listen", fleecing.listen.text)
        json.member("release", fleecing.release)
        if let since = fleecing.since { json.member("since", since) }
        if let tls = fleecing.tls { json.member("tls", tls) }
        json.member("tracker", fleecing.tracker)
      case .fleecingEnd(let id, let outcome):
        json.member("fleecing", id)
        if let outcome { json.member("outcome", outcome) }
      case .renewal(let id, let lifetime):
        json.member("expiresIn", lifetime)
        json.member("fleecing", id)
      case .released(let extents, let image, let id):
        json.member("extents", extents)
        json.member("fleecing", id)
        json.member("image", image)
      case .repositoryName(let name, let path):
        json.member("name", name)
        json.member("path", path)
      case .exportEnd(let id, let name):
        json.member("export", id)
        json.member("name", name)
      case .clearedImage(let name): json.member("name", name)
      case .job(let id, let next):
        json.member("job", id)
        json.member("state", next)
      case .attachment(let image, let cache):
        if let cache { json.member("cache", cache) }
        json.member("image", image)
      case .detachment(let image): json.member("image", image)
      case .check(let image, let repairsLeaks):
        json.member("image", image)
        json.member("repairLeaks", repairsLeaks)
      case .rescan(let repository): json.member("repository", repository)
      case .backups(let images, let repository, let kind, let compression, let speedLimit):
        json.member("compression", compression)
        json.member("images", images)
        json.member("kind", kind)
        json.member("repository", repository)
        json.member("speedLimit", speedLimit)
      case .verification(let backup, let level):
        json.member("backup", backup)
        json.member("level", level)
      case .chainVerification(let chain, let level):
        json.member("chain", chain)
        json.member("level", level)
      case .tracker(let name, let image):
        json.member("image", image)
        json.member("tracker", name)
      case .groupRestore(let group, let backups):
        json.member("backups", backups)
        json.member("group", group)
      case .reconciliation(let image, let disagreements):
        json.member("disagreements", disagreements)
        json.member("image", image)
      case .bitmaps(let changed): json.member("bitmaps", changed.map(BitmapResultDocument.init))
      case .restore(let backup), .deletion(let backup): json.member("backup", backup)
      }
    }
  }

  private static func write(_ export: Export, to json: inout JSONWriter) {
    json.member("contexts", ExportContextsDocument(export: export))
    switch export.source {
    case .image(let id): json.member("image", id)
    case .backup(let id): json.member("backup", id)
    }
    json.member("listen", export.listen.text)
    json.member("name", export.name)
    json.member("readOnly", export.isReadOnly)
    if let tls = export.tls { json.member("tls", tls) }
  }
}
