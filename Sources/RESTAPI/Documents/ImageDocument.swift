import Model

/// An image as the API shows it.
struct ImageDocument: JSONWritable, Sendable {
  let image: Image

  init(_ image: Image) {
    self.image = image
  }

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("id", image.id)
      json.member("name", image.name)
      json.member("source", SourceDocument(image.source))
      json.member("format", image.format)
      json.member("virtualSize", image.virtualSize)
      json.member("state", image.state)
      json.member("labels", image.labels)
      json.member("managedBy", image.managedBy)
      json.member("createdAt", image.createdAt)
    }
  }
}

/// Where an image's bytes are.
struct SourceDocument: JSONWritable, Sendable {
  let kind: SourceKind
  let path: String

  init(_ source: ImageSource) {
    switch source {
    case .file(let path): (kind, self.path) = (.file, path)
    case .device(let path): (kind, self.path) = (.device, path)
    }
  }

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("kind", kind)
      json.member("path", path)
    }
  }
}

/// The kinds of sources and file targets that are built.
enum SourceKind: String, CaseIterable, JSONWritable, Sendable {
  case file, device
}
