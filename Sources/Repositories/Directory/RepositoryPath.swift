import Foundation
import Model

/// The names in a repository of kind `directory`; all paths are relative to its folder.
///
///     repository.json
///     images/<image id>/image.json
///     images/<image id>/<chain id>/0000-<backup id>.qcow2 | .hashes | .json | .deleted
///     leases/<image id>.lease
///     quarantine/<chain id>-0000-<backup id>.qcow2 | .hashes
///     trash/<time of deletion>-<backup id>/0000-<backup id>.qcow2 | .hashes | .json
///
/// A work file is called `<final name>.<writer id>.<job id>.part`.
package enum RepositoryPath {
  package static let document = "repository.json"
  package static let images = "images"
  package static let leases = "leases"
  package static let quarantine = "quarantine"
  package static let trash = "trash"
  /// The folders of a repository beside its document.
  package static let folders = [images, leases, quarantine, trash]

  package static func image(_ image: ImageID) -> String { "\(images)/\(image)" }
  package static func imageDocument(_ image: ImageID) -> String { "\(images)/\(image)/image.json" }
  package static func lease(_ image: ImageID) -> String { "\(leases)/\(image).lease" }
  package static func chain(_ chain: ChainID, of image: ImageID) -> String { "\(images)/\(image)/\(chain)" }
}

/// A folder in `trash/`: a deleted backup's files under the names that they had, until their rest is over. Its manifest
/// tells where they were.
package struct TrashName: Hashable, Sendable {
  /// To the millisecond; names in order are deletions in order.
  package var deletedAt: Date
  package var backup: BackupID

  package init(deletedAt: Date, backup: BackupID) {
    self.deletedAt = Timestamp.rounded(deletedAt)
    self.backup = backup
  }

  /// The time as in documents, without the characters between digits: `20261126T184233123Z`.
  package var text: String { "\(Timestamp.text(of: deletedAt).filter { !"-:.".contains($0) })-\(backup)" }

  /// Nil if it isn't exactly as ``text`` writes it.
  package init?(_ text: String) {
    let parts = text.split(separator: "-", omittingEmptySubsequences: false)
    guard parts.count == 2, parts[0].count == 19, let backup = BackupID(parts[1]) else { return nil }
    var time = String(parts[0])
    // From the end on, so that the positions before stay as they are.
    for (position, separator) in [(15, "."), (13, ":"), (11, ":"), (6, "-"), (4, "-")] {
      time.insert(contentsOf: separator, at: time.index(time.startIndex, offsetBy: position))
    }
    guard let deletedAt = Timestamp.date(ofExact: time) else { return nil }
    self.init(deletedAt: deletedAt, backup: backup)
    guard self.text == text else { return nil }
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

  /// One of ``Manifest/sequences``.
  package var sequence: Int
  package var backup: BackupID
  package var part: Part

  package init(sequence: Int, backup: BackupID, part: Part) {
    self.sequence = sequence
    self.backup = backup
    self.part = part
  }

  private static let digitCount = String(Manifest.sequences.upperBound).count

  /// Of a sequence beyond the bound it isn't a name that is read back: ``RepositoryLease/begin(_:of:for:)`` refuses it.
  package var text: String {
    let digits = String(sequence)
    return String(repeating: "0", count: max(0, Self.digitCount - digits.count))
      + "\(digits)-\(backup).\(part.rawValue)"
  }

  /// Nil if it isn't exactly as ``text`` writes it.
  package init?(_ text: String) {
    let parts = text.split(separator: "-", maxSplits: 1, omittingEmptySubsequences: false)
    guard parts.count == 2, let sequence = Int(parts[0]), Manifest.sequences.contains(sequence),
      let dot = parts[1].firstIndex(of: "."), let backup = BackupID(parts[1][..<dot]),
      let part = Part(rawValue: String(parts[1][dot...].dropFirst()))
    else { return nil }
    self.init(sequence: sequence, backup: backup, part: part)
    guard self.text == text else { return nil }
  }
}
