import Model

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
