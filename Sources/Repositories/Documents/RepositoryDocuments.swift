import Foundation
import Model

/// `repository.json`: what makes a folder a repository.
package struct RepositoryDescription: CheckedDocument {
  package static let currentFormatVersion = 1

  package var formatVersion = Self.currentFormatVersion
  package var kind = "directory"
  package var id: RepositoryID
  package var createdAt: Date
  package var checksum = ""

  package init(id: RepositoryID, createdAt: Date) {
    self.id = id
    self.createdAt = createdAt
  }
}

/// Where an image's bytes are, as a repository keeps it: `kind` with `path`, or with `uri` for an NBD export.
package struct StoredImageSource: Codable, Hashable, Sendable {
  private enum Kind: String, Codable { case file, device, nbd }
  private enum CodingKeys: CodingKey { case kind, path, uri }

  package var source: ImageSource

  package init(_ source: ImageSource) { self.source = source }

  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    switch try container.decode(Kind.self, forKey: .kind) {
    case .file: source = .file(path: try container.decode(String.self, forKey: .path))
    case .device: source = .device(path: try container.decode(String.self, forKey: .path))
    case .nbd: source = .nbd(uri: try container.decode(String.self, forKey: .uri))
    }
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: CodingKeys.self)
    switch source {
    case .file(let path):
      try container.encode(Kind.file, forKey: .kind)
      try container.encode(path, forKey: .path)
    case .device(let path):
      try container.encode(Kind.device, forKey: .kind)
      try container.encode(path, forKey: .path)
    case .nbd(let uri):
      try container.encode(Kind.nbd, forKey: .kind)
      try container.encode(uri, forKey: .uri)
    }
  }
}

/// `image.json`: what an image is called and where it was, so that it can be registered again.
package struct ImageDescription: CheckedDocument {
  package static let currentFormatVersion = 1

  package var formatVersion = Self.currentFormatVersion
  package var id: ImageID
  package var name: ResourceName
  package var source: StoredImageSource
  package var format: DiskFormat
  package var labels: [String: String]
  package var checksum = ""

  package init(_ record: ImageRecord) {
    id = record.id
    name = record.name
    source = StoredImageSource(record.source)
    format = record.format
    labels = record.labels
  }

  package var record: ImageRecord {
    ImageRecord(id: id, name: name, source: source.source, format: format, labels: labels)
  }
}
