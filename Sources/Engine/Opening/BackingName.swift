import Model

/// The name of a backing file as an image states it: judged before it is followed, as a guest may have written it.
package struct BackingName: Sendable {
  /// The path that the name means: absolute, or relative to the folder of the image that has it.
  package let path: String
  package let format: DiskFormat

  /// - Parameter image: what the person knows the image by that has the name.
  /// - Throws: `backingRefused`, `formatUnsupported`.
  package init(_ name: String, format: String?, in image: String) throws(DomainError) {
    if name.hasPrefix("json:") || Self.hasProtocol(name) {
      throw DomainError(
        .backingRefused, "\(image) names '\(name)' as its backing file: only plain paths are followed",
        remedy: "give the image a plain path with qemu-img rebase -u -b PATH -F FORMAT")
    }
    guard !name.isEmpty, !name.utf8.contains(0) else {
      throw DomainError(.backingRefused, "\(image) names a backing file that can't exist")
    }
    guard let format else {
      throw DomainError(
        .backingRefused, "\(image) names its backing file '\(name)' without saying what format that has",
        remedy: "state it with qemu-img rebase -u -b '\(name)' -F FORMAT; it can't be guessed safely")
    }
    guard let known = DiskFormat(rawValue: format) else {
      throw DomainError(
        .formatUnsupported, "\(image) names its backing file '\(name)' with the format '\(format)'",
        remedy: "convert it with qemu-img convert")
    }
    path = name
    self.format = known
  }

  /// The path from the folder of the image at `imagePath`, if it is relative.
  package func joined(to imagePath: String) -> String {
    path.hasPrefix("/") ? path : "\(RepositoryPath.folder(of: imagePath))/\(path)"
  }

  /// As QEMU judges it: a colon before the first slash.
  private static func hasProtocol(_ name: String) -> Bool {
    guard let colon = name.firstIndex(of: ":") else { return false }
    return !name[..<colon].contains("/")
  }
}
