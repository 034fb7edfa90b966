import Foundation
import Logging
import Model

/// What came of a look at an image.
enum ImageProbe: Sendable {
  case found(virtualSize: UInt64)
  case unavailable
  /// It is there, but another program has it open: nothing to learn.
  case busy

  init(_ error: any Error) {
    switch error {
    case let error as DomainError where error.code == .imageLocked: self = .busy
    case is DomainError: self = .unavailable
    default: self = .busy
    }
  }
}

extension BackupService {
  /// Keeps what was seen of the image; whether one is attached, only attaching tells. Failing to is no matter: the next
  /// look tells it again.
  func note(_ probe: ImageProbe, of id: ImageID) async {
    let seen: @Sendable (Image) -> Image? = { image in
      var seen = image
      switch probe {
      case .found(let virtualSize):
        seen.virtualSize = virtualSize
        if seen.state == .unavailable, seen.isAtRest { seen.state = .detached }
      case .unavailable: if seen.state == .detached { seen.state = .unavailable }
      case .busy: break
      }
      return seen == image ? nil : seen
    }
    guard let known = try? transactions.read({ try $0.image(id) }), seen(known) != nil else { return }
    try? await transactions.write { transaction in
      guard let image = try transaction.catalog.image(id), let seen = seen(image) else { return }
      try transaction.update(seen)
    }
  }

  /// Tells listeners that an attached image is written no more. The engine has logged it.
  func announce(_ failure: ImageFailure) async {
    do {
      try await transactions.write { transaction in
        guard let image = try transaction.catalog.image(failure.image) else { return }
        try transaction.announce(failure, of: image)
      }
    } catch {
      logger.warning("a failure isn't told as an event", metadata: ["image": "\(failure.image)", "error": "\(error)"])
    }
  }

  /// Writes image.json anew wherever the image has chains. What fails is caught up with by the image's next backup.
  func recordInRepositories(_ image: Image) async {
    do {
      let repositories = try transactions.read { catalog in
        let chains = try allPages { try catalog.chains(image: image.id, repository: nil, $0) }
        return try Set(chains.map(\.repository)).compactMap { try catalog.repository($0) }
      }
      for repository in repositories {
        try await engine.record(ImageRecord(image), in: repository.location)
      }
    } catch {
      logger.warning(
        "a repository keeps an image's old name until the next backup",
        metadata: ["image": "\(image.name)", "error": "\(error)"])
    }
  }
}
