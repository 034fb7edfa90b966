import Foundation
import Model

// What an image must be, and must not be yet, to be registered or changed.

extension BackupService {
  /// The source with its stated format.
  func statedLocation(of draft: ImageDraft) async throws -> ImageLocation {
    if let format = draft.format {
      return ImageLocation(source: draft.source, format: format, isExclusive: draft.isExclusive)
    }
    let suggestion = try await engine.suggestFormat(of: draft.source)
    let format = suggestion.format.rawValue
    throw DomainError(
      .formatRequired,
      "the format must be stated, for a guest can write any header into a raw disk; \(draft.source.place) looks like "
        + "\(format): \(suggestion.why)",
      remedy: "if you know that it is so, send \"format\": \"\(format)\"",
      faults: [DomainError.Fault(.format, "is required; the header suggests \"\(format)\"")])
  }

  func openable(_ location: ImageLocation) async throws -> ImageInspection {
    do {
      return try await engine.inspect(location)
    } catch let error as DomainError where [.imageCorrupt, .formatUnsupported].contains(error.code) {
      // Is it a bad qcow2, or none at all?
      guard location.format == .qcow2, let suggestion = try? await engine.suggestFormat(of: location.source),
        suggestion.format != .qcow2
      else { throw error }
      throw DomainError(
        .formatMismatch, "\(location.source.place) is no qcow2 image: \(suggestion.why)",
        remedy: "if it is a raw disk, send \"format\": \"\(suggestion.format.rawValue)\"",
        faults: [DomainError.Fault(.format, "the source has no qcow2 header")])
    }
  }

  /// Does `body`, which registers the source, with what tells that it isn't the file or device of a registered image
  /// under another path, and the names of those images of which that can't be told. Repeats it while others are
  /// registered meanwhile.
  func comparing<Result>(
    _ source: ImageSource, _ identities: inout SourceIdentities,
    _ body: (SourceIdentities, [ResourceName]) async throws -> Result
  ) async throws -> Result {
    for _ in 0..<limits.registrationAttempts {
      let images = try transactions.read { catalog in try allPages { try catalog.images($0) } }
      await identities.look(at: [source] + images.map(\.source), by: looks, timeout: limits.comparisonTimeout)
      if let other = identities.image(among: images, withTheFileOf: source) {
        throw DomainError(
          .sourceTaken,
          "\(source.place) is the file at \(other.source.place), which is registered as image '\(other.name)'",
          remedy: "use that image")
      }
      do {
        return try await body(identities, identities.images(of: images, notComparedWith: source).map(\.name))
      } catch is RegisteredMeanwhile {
        continue
      }
    }
    throw DomainError(
      .sourceTaken, "other images were registered at the same moment, again and again", remedy: "ask again")
  }

  /// Says whose storage was silent while the image was compared with them.
  func noteNotCompared(_ image: ResourceName, with others: [ResourceName]) {
    guard !others.isEmpty else { return }
    logger.warning(
      "an image is known by its path's spelling only: whether it is the file of others can't be told",
      metadata: ["image": "\(image)", "others": "\(others.inWords)"])
  }

  static func plan(
    _ draft: ImageDraft, _ location: ImageLocation, _ inspection: ImageInspection,
    notComparedWith others: [ResourceName]
  ) -> Plan {
    let image = Image(
      name: draft.name, source: draft.source, format: location.format, virtualSize: inspection.virtualSize,
      isExclusive: draft.isExclusive, labels: draft.labels, createdAt: .distantPast)
    var warnings: [String] = []
    if inspection.locks.contains(where: \.held) {
      warnings.append("another process has it open: a backup would be refused while it may write")
    }
    if !others.isEmpty {
      warnings.append("whether it is the file of these images can't be told at the moment: \(others.inWords)")
    }
    return Plan(
      action: "register-image",
      steps: ["register \(draft.source.place) as image '\(draft.name)', read as \(location.format.rawValue)"],
      warnings: warnings, resource: .image(image))
  }
}
