/// Everything that is wrong with a configuration, at once.
package struct ConfigurationError: Error, Hashable, Sendable {
  package struct Fault: Hashable, Sendable {
    /// The place, e.g. `images[0].source.kind`; empty for the file as a whole.
    package let keyPath: String
    /// From 1; nil if it can't be told, as for a default.
    package let line: Int?
    /// A sentence without its subject, e.g. "must be a list".
    package let detail: String
  }

  /// The file's path, or what it is called.
  package let source: String
  /// Never empty; in order of line.
  package let faults: [Fault]
}

extension ConfigurationError: CustomStringConvertible {
  package var description: String {
    faults.map { "\(source)\($0.line.map { ":\($0)" } ?? ""): \($0)" }.joined(separator: "\n")
  }
}

extension ConfigurationError.Fault: CustomStringConvertible {
  package var description: String { keyPath.isEmpty ? detail : "\(keyPath): \(detail)" }
}

/// Collects the faults of one file while it is read.
final class FaultList {
  private(set) var faults: [ConfigurationError.Fault] = []

  func add(_ keyPath: String, line: Int?, _ detail: String) {
    faults.append(ConfigurationError.Fault(keyPath: keyPath, line: line, detail: detail))
  }

  /// By line, those without one last.
  var sorted: [ConfigurationError.Fault] {
    faults.enumerated().sorted { ($0.element.line ?? .max, $0.offset) < ($1.element.line ?? .max, $1.offset) }
      .map(\.element)
  }
}
