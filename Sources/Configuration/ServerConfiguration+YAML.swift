import Descriptors
import Foundation
import Model
import Yams

extension ServerConfiguration {
  /// Bytes that the file may have.
  package static let maximumFileSize = 1 << 20

  /// Reads the file at `path`, or, without one, takes the defaults as seen from `workingFolder` (absolute).
  /// - Parameter requiresFiles: whether it is a fault if a folder or file isn't there that a server must find there.
  package init(
    file path: String?, workingFolder: String = FileManager.default.currentDirectoryPath, requiresFiles: Bool = false
  ) throws(ConfigurationError) {
    guard let path else {
      try self.init(
        yaml: "", folder: workingFolder, source: "the default configuration", requiresFiles: requiresFiles)
      return
    }
    let place = FolderPath.absolute(path, in: workingFolder)
    let yaml = try Self.text(of: place)
    try self.init(yaml: yaml, folder: FolderPath.folder(of: place), source: path, requiresFiles: requiresFiles)
  }

  /// Reads `yaml`, whose relative paths start at `folder` (absolute). `source` names it in the faults.
  package init(
    yaml: String, folder: String, source: String, requiresFiles: Bool = false
  ) throws(ConfigurationError) {
    let faults = FaultList()
    let root = try Self.document(yaml, source: source)
    var reader = ConfigurationReader(
      ConfigurationNode(root, keyPath: "", faults: faults).section(ConfigurationKey.all), folder: folder,
      requiresFiles: requiresFiles)
    let configuration = reader.read()
    guard faults.faults.isEmpty, let configuration else {
      throw ConfigurationError(source: source, faults: faults.sorted)
    }
    self = configuration
  }

  private static func text(of path: String) throws(ConfigurationError) -> String {
    func failure(_ detail: String) -> ConfigurationError {
      ConfigurationError(source: path, faults: [.init(keyPath: "", line: nil, detail: detail)])
    }
    guard let file = FileDescriptor(result: open(path, O_RDONLY | O_CLOEXEC)) else {
      throw failure("can't be read: \(String(cString: strerror(errno)))")
    }
    var bytes = [UInt8](repeating: 0, count: maximumFileSize + 1)
    var count = 0
    while count < bytes.count {
      let part = bytes.withUnsafeMutableBytes { read(file.rawValue, $0.baseAddress! + count, $0.count - count) }
      guard part >= 0 || errno == EINTR else { throw failure("can't be read: \(String(cString: strerror(errno)))") }
      guard part != 0 else { break }
      count += max(part, 0)
    }
    bytes.removeLast(bytes.count - count)
    guard bytes.count <= maximumFileSize else { throw failure("is larger than \(maximumFileSize) bytes") }
    guard let text = String(validating: bytes, as: UTF8.self) else { throw failure("isn't UTF-8 text") }
    return text
  }

  /// The one document in `yaml`; an empty one holds no keys.
  private static func document(_ yaml: String, source: String) throws(ConfigurationError) -> Node {
    func failure(line: Int?, _ detail: String) -> ConfigurationError {
      ConfigurationError(source: source, faults: [.init(keyPath: "", line: line, detail: detail)])
    }
    do {
      let root = try Yams.compose(yaml: yaml) ?? Node([(Node, Node)]())
      return root.null == nil ? root : Node([(Node, Node)]())
    } catch let error as YamlError {
      switch error {
      case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
        .composer(_, let problem, let mark, _):
        throw failure(line: mark.line, "isn't YAML: \(problem)")
      case .duplicatedKeysInMapping(let keys, let context):
        throw failure(line: context.mark.line, "has a key twice: \(keys.joined(separator: ", "))")
      default: throw failure(line: nil, "isn't YAML: \(error)")
      }
    } catch {
      throw failure(line: nil, "isn't YAML: \(error)")
    }
  }
}
