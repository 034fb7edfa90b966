import Model
import Repositories

/// The name of another file as an image states it, its backing file or the one that holds its data: judged before it
/// is followed, as a guest may have written it.
package struct BackingName: Sendable {
  /// The path that the name means: absolute, or relative to the folder of the image that has it.
  package let path: String
  package let format: DiskFormat

  /// - Parameter image: what the person knows the image by that has the name.
  /// - Throws: `backingRefused`, `formatUnsupported`.
  package init(_ name: String, format: String?, in image: String) throws(DomainError) {
    try Self.check(
      name, "backing file", in: image,
      remedy: "give the image a plain path with qemu-img rebase -u -b PATH -F FORMAT")
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

  /// The file that holds the guest's data, where that isn't the image itself: always raw.
  /// - Throws: `backingRefused`.
  package init(dataFile name: String, in image: String) throws(DomainError) {
    try Self.check(
      name, "data file", in: image, remedy: "give the image a plain path with qemu-img amend -o data_file=PATH")
    path = name
    format = .raw
  }

  private static func check(_ name: String, _ what: String, in image: String, remedy: String) throws(DomainError) {
    if name.hasPrefix("json:") || hasProtocol(name) {
      throw DomainError(
        .backingRefused, "\(image) names '\(name)' as its \(what): only plain paths are followed", remedy: remedy)
    }
    guard !name.isEmpty, !name.utf8.contains(0) else {
      throw DomainError(.backingRefused, "\(image) names a \(what) that can't exist")
    }
  }

  /// The path from the folder of the image at `imagePath`, if it is relative.
  package func joined(to imagePath: String) -> String {
    path.hasPrefix("/") ? path : "\(FilePath.folder(of: imagePath))/\(path)"
  }

  /// Why an image that lies on another NBD server may name no further file: where would that be?
  static func overNBD(_ name: String, _ what: String, in uri: String) -> DomainError {
    DomainError(
      .backingRefused, "the image at \(uri) names '\(name)' as its \(what), which can't be reached over NBD",
      remedy: "have its server open the image and export what the guest sees, and state the format raw")
  }

  /// As QEMU judges it: a colon before the first slash.
  private static func hasProtocol(_ name: String) -> Bool {
    guard let colon = name.firstIndex(of: ":") else { return false }
    return !name[..<colon].contains("/")
  }
}
