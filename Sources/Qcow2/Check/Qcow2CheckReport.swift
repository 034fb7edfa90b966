import BlockCore

/// Is told what part of a check is done, from 0 to 1.
package typealias CheckProgress = (Double) async throws(BlockError) -> Void

/// What a walk through all tables of an image found.
package struct Qcow2CheckReport: Hashable, Sendable {
  package struct Finding: Hashable, Sendable {
    package enum Kind: String, Hashable, Sendable {
      /// Data is lost or will be: tables contradict each other.
      case corruption
      /// Storage that nothing uses; harmless.
      case leak
    }

    package var kind: Kind
    /// Where and what, in words.
    package var place: String
  }

  /// So many findings are kept, corruption rather than leaks; the counts go on.
  package static let maximumFindings = 100
  /// So much of a bitmap's or a snapshot's name is in a finding.
  package static let maximumNameByteCount = 64

  package var corruptionCount = 0
  package var leakCount = 0
  /// Clusters whose refcount was wrong and has been put right; what is left is told by the other counts.
  package var repairedCount = 0
  /// The first few.
  package var findings: [Finding] = []
  /// There are more findings, or they have longer names.
  package var isTruncated = false

  package var isClean: Bool { corruptionCount == 0 && leakCount == 0 }

  mutating func add(_ kind: Finding.Kind, _ place: @autoclosure () -> String) {
    if kind == .corruption { corruptionCount += 1 } else { leakCount += 1 }
    if findings.count == Self.maximumFindings {
      guard kind == .corruption, let leak = findings.lastIndex(where: { $0.kind == .leak }) else { return }
      findings.remove(at: leak)
    }
    findings.append(Finding(kind: kind, place: place()))
  }
}
