import HTTPServer
import Model

/// An event as it goes out to listeners.
struct EventDocument: JSONWritable {
  let event: Event

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("id", event.id)
      json.member("at", event.at)
      json.member("kind", event.kind)
      json.member("subject", event.subject)
      json.member("job", event.job)
      json.member("payload", event.payload)
    }
  }

  var message: ServerSentEvent {
    ServerSentEvent(id: String(event.id), name: event.kind.rawValue, text: JSONWriter.string(of: self))
  }
}

extension EventPayload: JSONWritable {
  /// In the order of the names, and only what there is.
  func write(to json: inout JSONWriter) {
    json.object { json in
      if let backup { json.member("backup", backup) }
      if let bitmap { json.member(bitmap, as: "bitmap") }
      if let error { json.member("error", error) }
      if let fallbackReason { json.member("fallbackReason", fallbackReason) }
      if let failure { json.member("failure", failure) }
      if let image { json.member("image", image) }
      if let images { json.member("images", images) }
      if let kind { json.member("kind", kind) }
      if let name { json.member("name", name) }
      if let repository { json.member("repository", repository) }
      if let state { json.member("state", state) }
      if let waitingFor { json.member("waitingFor", waitingFor) }
      if let why { json.member("why", why) }
    }
  }
}

extension EventPayload.Failure: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("detail", detail)
      if let errno { json.member("errno", Int(errno)) }
      if let offset { json.member("offset", offset) }
      json.member("operation", operation)
    }
  }
}

/// How far a job is, for listeners. It has no id: a listener that comes back gets the newest.
struct ProgressEventDocument: JSONWritable {
  let job: JobID
  let progress: JobProgress

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("job", job)
      json.member("progress", ProgressDocument(progress))
    }
  }

  var message: ServerSentEvent { ServerSentEvent(name: "progress", text: JSONWriter.string(of: self)) }
}

/// Tells a listener that events are lost to it: it lists what it shows again, and goes on behind `newest`.
struct GapEventDocument: JSONWritable {
  let newest: Int64

  func write(to json: inout JSONWriter) {
    json.object { json in json.member("newest", newest) }
  }

  var message: ServerSentEvent {
    ServerSentEvent(id: String(newest), name: "gap", text: JSONWriter.string(of: self))
  }
}

extension JSONWriter {
  static func string(of value: some JSONWritable) -> String { String(decoding: text(of: value), as: UTF8.self) }
}
