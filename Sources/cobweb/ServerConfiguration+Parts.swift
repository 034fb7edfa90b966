import Configuration
import EventLoops
import Orchestrator

/// The configuration in the words of the rooms that it is for.
extension ServerConfiguration {
  var loopBackend: IOBackend.Choice {
    switch ioBackend {
    case .auto: .automatic
    case .ioUring: .forced(.ioUring)
    case .epoll: .forced(.epoll)
    }
  }

  var declarations: Declarations {
    Declarations(
      repositories: repositories.map { RepositoryDraft(name: $0.name, kind: $0.kind, path: $0.path) },
      images: images.map { ImageDraft(name: $0.name, source: $0.source, format: $0.format, labels: $0.labels) })
  }
}
