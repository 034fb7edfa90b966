import Descriptors
import EventLoops
import Glibc
import Model

/// The block devices that may be opened: patterns as in the shell, e.g. `/dev/vg0/*`.
///
/// A device is allowed if it is the same device, by its number and with all links resolved, as one that a pattern
/// finds at that moment.
package struct AllowedDevices: Sendable {
  private let patterns: [String]

  package init(_ patterns: [String]) { self.patterns = patterns }

  /// Opens the device at `path`. Blocks.
  package func open(_ path: String, isReadOnly: Bool) throws -> FileDescriptor {
    guard path.hasPrefix("/"), !path.utf8.contains(0) else {
      throw DomainError(.invalidField, "a device's path is absolute")
    }
    // Looked at before it is opened: opening some devices does something.
    guard let number = Self.deviceNumber(path) else {
      guard access(path, F_OK) == 0 else { throw DomainError(.sourceNotFound, "\(path) doesn't exist") }
      throw DomainError(.sourceNotAFile, "\(path) is no block device")
    }
    guard allowedNumbers().contains(number) else {
      throw DomainError(
        .pathOutsideFolders, "\(path) isn't one of the allowed devices", remedy: "list it under imageDevices")
    }
    let access: Folder.Access = isReadOnly ? .readOnly : .readWrite
    let file = try FileDescriptor.open(
      path: path, Folder.FileOptions(access: access, allowsBlockDevice: true))
    var status = stat()
    guard fstat(file.rawValue, &status) == 0, UInt64(status.st_rdev) == number else {
      throw DomainError(.pathOutsideFolders, "\(path) became another device while it was opened")
    }
    return file
  }

  private static func deviceNumber(_ path: String) -> UInt64? {
    var status = stat()
    guard stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFBLK else { return nil }
    return UInt64(status.st_rdev)
  }

  private func allowedNumbers() -> Set<UInt64> {
    var numbers = Set<UInt64>()
    for pattern in patterns {
      var found = glob_t()
      defer { globfree(&found) }
      guard glob(pattern, 0, nil, &found) == 0 else { continue }
      for index in 0..<Int(found.gl_pathc) {
        guard let path = found.gl_pathv[index] else { continue }
        if let number = Self.deviceNumber(String(cString: path)) { numbers.insert(number) }
      }
    }
    return numbers
  }
}
