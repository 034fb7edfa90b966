import Configuration
import ModelTesting
import Testing

extension ServerConfiguration {
  /// Reads `yaml` as if it lay in `folder`.
  static func read(_ yaml: String, in folder: String = "/srv/cobweb") throws(ConfigurationError) -> ServerConfiguration
  {
    try ServerConfiguration(yaml: yaml, folder: folder, source: "cobweb.yaml")
  }

  /// The faults of `yaml`, each as "key.path:line detail".
  static func faults(_ yaml: String, in folder: String = "/srv/cobweb") -> [String] {
    do {
      _ = try read(yaml, in: folder)
      return []
    } catch {
      return error.faults.map { "\($0.keyPath):\($0.line.map(String.init) ?? "-") \($0.detail)" }
    }
  }
}

/// Whether there is one fault, and it starts and goes on like this.
func expectOneFault(
  _ yaml: String, _ start: String, _ part: String = "", in folder: String = "/srv/cobweb",
  sourceLocation: SourceLocation = #_sourceLocation
) {
  let faults = ServerConfiguration.faults(yaml, in: folder)
  #expect(
    faults.count == 1 && faults[0].hasPrefix(start) && (part.isEmpty || faults[0].contains(part)), "\(faults)",
    sourceLocation: sourceLocation)
}
