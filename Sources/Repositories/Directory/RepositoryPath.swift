import Foundation
import Model

/// The names in a repository of kind `directory`; all paths are relative to its folder.
///
///     repository.json
///     images/<image id>/image.json
///     images/<image id>/<chain id>/0000-<backup id>.qcow2 | .hashes | .json | .deleted
///     leases/<image id>.lease
///     quarantine/<chain id>-0000-<backup id>.qcow2 | .hashes
///
/// A work file is called `<final name>.<writer id>.<job id>.part`.
package enum RepositoryPath {
  package static let document = "repository.json"
  package static let images = "images"
  package static let leases = "leases"
  package static let quarantine = "quarantine"

  package static func image(_ image: ImageID) -> String { "\(images)/\(image)" }
  package static func imageDocument(_ image: ImageID) -> String { "\(images)/\(image)/image.json" }
  package static func lease(_ image: ImageID) -> String { "\(leases)/\(image).lease" }
  package static func chain(_ chain: ChainID, of image: ImageID) -> String { "\(images)/\(image)/\(chain)" }

  /// The folder that `path` lies in.
  package static func folder(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return String(path[..<slash])
  }

  package static func name(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return path }
    return String(path[path.index(after: slash)...])
  }
}

/// One file of a stored backup: its place in the chain, its id, and which of the files it is.
package struct BackupFileName: Hashable, Sendable {
  package enum Part: String, Hashable, Sendable, CaseIterable {
    case data = "qcow2"
    case hashes
    /// Says that the backup is complete.
    case manifest = "json"
    /// What the manifest is renamed to first when the backup is deleted.
    case tombstone = "deleted"
  }

  package var sequence: Int
  package var backup: BackupID
  package var part: Part

  package init(sequence: Int, backup: BackupID, part: Part) {
    self.sequence = sequence
    self.backup = backup
    self.part = part
  }

  package var text: String {
    let digits = String(sequence)
    return String(repeating: "0", count: max(0, 4 - digits.count)) + "\(digits)-\(backup).\(part.rawValue)"
  }

  /// Nil if it isn't exactly as ``text`` writes it.
  package init?(_ text: String) {
    let bytes = Array(text.utf8)
    guard bytes.count > 32, bytes[4] == UInt8(ascii: "-"), bytes[31] == UInt8(ascii: "."),
      let sequence = Int(String(decoding: bytes[..<4], as: UTF8.self)), sequence >= 0,
      let backup = BackupID(String(decoding: bytes[5..<31], as: UTF8.self)),
      let part = Part(rawValue: String(decoding: bytes[32...], as: UTF8.self))
    else { return nil }
    self.init(sequence: sequence, backup: backup, part: part)
    guard self.text == text else { return nil }
  }
}

/// The name of a work file: whose it is, and what it is to become.
package struct PartFileName: Hashable, Sendable {
  package var target: String
  package var writer: ULID
  package var job: JobID

  package init(target: String, writer: ULID, job: JobID) {
    self.target = target
    self.writer = writer
    self.job = job
  }

  package static let suffix = ".part"

  package var text: String { "\(target).\(writer).\(job)\(Self.suffix)" }

  /// Nil if it isn't exactly as ``text`` writes it.
  package init?(_ text: String) {
    guard text.hasSuffix(Self.suffix) else { return nil }
    let parts = text.dropLast(Self.suffix.count).split(separator: ".", omittingEmptySubsequences: false)
    guard parts.count >= 3, let job = JobID(parts[parts.count - 1]), let writer = ULID(parts[parts.count - 2])
    else { return nil }
    self.init(target: parts.dropLast(2).joined(separator: "."), writer: writer, job: job)
    guard !target.isEmpty, self.text == text else { return nil }
  }
}
