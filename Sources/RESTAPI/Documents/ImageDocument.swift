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
      json.member("attachment", image.attachment)
      json.member("damaged", image.damage)
      json.member("exclusive", image.isExclusive)
      json.member("labels", image.labels)
      json.member("managedBy", image.managedBy)
      json.member("createdAt", image.createdAt)
    }
  }
}

/// Where an image's bytes are.
struct SourceDocument: JSONWritable, Sendable {
  let source: ImageSource

  init(_ source: ImageSource) {
    self.source = source
  }

  func write(to json: inout JSONWriter) {
    json.object { json in
      switch source {
      case .file(let path):
        json.member("kind", SourceKind.file)
        json.member("path", path)
      case .device(let path):
        json.member("kind", SourceKind.device)
        json.member("path", path)
      case .nbd(let uri):
        json.member("kind", SourceKind.nbd)
        json.member("uri", uri)
      }
    }
  }
}

/// What an image's bytes may be in.
enum SourceKind: String, CaseIterable, JSONWritable, Sendable {
  case file, device, nbd
}

extension Attachment: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("cache", cache)
      json.member("cause", cause)
    }
  }
}

extension Image.Damage: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("since", since)
      json.member("why", why)
      json.member("job", job)
    }
  }
}
