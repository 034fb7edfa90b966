import Model
import Orchestrator

/// An export as the API shows it.
struct ExportDocument: JSONWritable, Sendable {
  let view: ExportView
  private let showsFigures: Bool

  init(_ view: ExportView) {
    self.init(view, showsFigures: true)
  }

  private init(_ view: ExportView, showsFigures: Bool) {
    self.view = view
    self.showsFigures = showsFigures
  }

  /// What there is to say of it besides what it does right now.
  var withoutFigures: ExportDocument { ExportDocument(view, showsFigures: false) }

  /// Figures change by themselves: they make no new version.
  var tag: String { EntityTag.of(JSONWriter.text(of: withoutFigures), revision: view.export.revision) }

  func write(to json: inout JSONWriter) {
    let export = view.export
    json.object { json in
      json.member("id", export.id)
      json.member("name", export.name)
      json.member("source", ExportSourceDocument(view: view))
      json.member("uri", export.uri)
      json.member("readOnly", export.isReadOnly)
      json.member("listen", export.listen)
      json.member("tls", export.tls)
      json.member("contexts", ExportContextsDocument(export: export))
      json.member("state", export.state)
      json.member("failure", export.failure)
      if showsFigures {
        json.member("clients", view.activity?.clients ?? 0)
        json.member("activity", view.activity)
      }
      json.member("createdAt", export.createdAt)
    }
  }
}

/// What clients of an export may ask for besides data and zeroes.
struct ExportContextsDocument: JSONWritable {
  let export: Export

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("allocationDepth", export.offersAllocationDepth)
      json.member("bitmaps", export.bitmaps)
      json.member("changedSince", export.changedSince)
    }
  }
}

extension ExportedBitmap: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member(bitmap, as: "bitmap")
      json.member("exportName", exportName)
    }
  }
}

extension ExportedDifference: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("backup", backup)
      json.member("exportName", exportName)
    }
  }
}

/// What an export shows.
private struct ExportSourceDocument: JSONWritable {
  let view: ExportView

  func write(to json: inout JSONWriter) {
    json.object { json in
      switch view.export.source {
      case .image(let id):
        json.member("kind", "image")
        json.member("image", id)
        json.member("imageName", view.imageName)
      case .backup(let id):
        json.member("kind", "backup")
        json.member("backup", id)
        json.member("image", view.imageID)
        json.member("imageName", view.imageName)
        json.member("pointInTime", view.pointInTime)
      }
    }
  }
}

extension ExportAddress: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      switch self {
      case .unix(let path): json.member("unix", path)
      case .tcp: json.member("tcp", text)
      }
    }
  }
}

extension ExportActivity: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("reads", reads)
      json.member("writes", writes)
      json.member("flushes", flushes)
      json.member("others", others)
    }
  }
}

extension ExportActivity.Requests: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("count", count)
      json.member("failed", failed)
      json.member("bytes", bytes)
      json.member("latencyMicroseconds", latency)
    }
  }
}

extension ExportActivity.Latency: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("p50", p50)
      json.member("p99", p99)
      json.member("p999", p999)
    }
  }
}
