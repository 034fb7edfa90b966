import Model
import Orchestrator

extension RequestFields {
  /// The body that registers an image.
  func imageDraft() throws(DomainError) -> ImageDraft {
    let name = resourceName("name")
    let source = imageSource("source")
    // Without a format the use case answers with what the header looks like.
    let format = choice("format", of: DiskFormat.self, required: false)
    let isExclusive = boolean("exclusive", required: false) ?? false
    let labels = labels("labels")
    try finish()
    guard let name, let source else { throw Self.incomplete }
    return ImageDraft(name: name, source: source, format: format, isExclusive: isExclusive, labels: labels)
  }

  /// The merge patch of an image.
  func imageChange() throws(DomainError) -> ImageChange {
    let name = resourceName("name", required: false)
    let isExclusive = boolean("exclusive", required: false)
    let labels = labelChange("labels")
    refuseFixed(["id", "source", "format", "virtualSize", "state", "attachment", "damaged", "managedBy", "createdAt"])
    try finish()
    return ImageChange(name: name, isExclusive: isExclusive, labels: labels)
  }

  private func imageSource(_ name: String) -> ImageSource? {
    guard let source = object(name) else { return nil }
    let kind = source.choice("kind", of: SourceKind.self)
    if kind == .nbd { return source.nbdURI("uri").map { .nbd(uri: $0) } }
    // Asked for at once with the kind, so that each is known even where the other is wrong.
    let path = source.absolutePath("path")
    guard let kind, let path else { return nil }
    return kind == .device ? .device(path: path) : .file(path: path)
  }

  /// The body that attaches an image. `cache`: nil is what suits its storage best.
  func attachment() throws(DomainError) -> (cache: CacheMode?, confirm: String?) {
    let cache = choice("cache", of: CacheMode.self, required: false)
    let confirm = string("confirm", required: false)
    try finish()
    return (cache, confirm)
  }

  /// The body of what a person has to confirm by the image's name.
  func confirmation() throws(DomainError) -> String? {
    let confirm = string("confirm", required: false)
    try finish()
    return confirm
  }

  /// The body that checks an image.
  func repairsLeaks() throws(DomainError) -> Bool {
    let repairs = boolean("repairLeaks", required: false)
    try finish()
    return repairs ?? false
  }

  private func labels(_ name: String) -> [String: String] {
    guard let value = any(name, required: false) else { return [:] }
    guard case .object(let members) = value else {
      refuse(name, "must be an object of strings")
      return [:]
    }
    return members.reduce(into: [:]) { labels, member in
      guard case .string(let text) = member.value, isLabel(member.key, text) else {
        return refuse(name, "must be an object of strings without NUL")
      }
      labels[member.key] = text
    }
  }

  private func labelChange(_ name: String) -> LabelChange {
    switch any(name, required: false) {
    case nil: return .keep
    case .null: return .clear
    case .object(let members):
      var changes: [String: String?] = [:]
      for (label, value) in members {
        switch value {
        case .string(let text) where isLabel(label, text): changes[label] = .some(text)
        case .null: changes[label] = .some(nil)
        default: refuse(name, "must be an object of strings without NUL, and of null for labels to remove")
        }
      }
      return .merge(changes)
    default:
      refuse(name, "must be an object of strings, or null")
      return .keep
    }
  }

  private func isLabel(_ key: String, _ value: String) -> Bool {
    !key.utf8.contains(0) && !value.utf8.contains(0)
  }

  /// A required field whose fault `finish()` has already thrown.
  static let incomplete = DomainError(.invalidField, "the body is incomplete")
}
