import Configuration
import Foundation
import ModelTesting
import Testing

struct ReadmeTests {
  private let place = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .appending(path: "../../README.md").standardized

  private static let head = "| Key | Value | Default | Meaning |\n|---|---|---|---|\n"

  /// The table of every key, as the README has it. With UPDATE_README=1 in the environment it is written there.
  @Test func theReadmeHasTheTableOfEveryKey() throws {
    let table = Self.head + ConfigurationKey.all.flatMap { rows($0) }.joined(separator: "\n") + "\n"
    var text = try String(contentsOf: place, encoding: .utf8)
    if ProcessInfo.processInfo.environment["UPDATE_README"] == "1", let start = text.range(of: Self.head)?.lowerBound {
      let end = text.range(of: "\n\n", range: start..<text.endIndex)?.lowerBound ?? text.endIndex
      text.replaceSubrange(start..<end, with: table.dropLast())
      try Data(text.utf8).write(to: place)
    }
    #expect(text.contains("\n" + table), "README.md lacks this table, or has an older one:\n\(table)")
  }

  private func rows(_ key: ConfigurationKey, in parent: String = "") -> [String] {
    let name = parent + key.name
    let standard = key.standard.map { "`\($0)`" } ?? ""
    let own = "| `\(name)` | \(key.form) | \(standard) | \(key.meaning) |"
    let within = key.form.hasPrefix("a list") ? "\(name)[]." : "\(name)."
    return [own] + key.fields.flatMap { rows($0, in: within) }
  }
}
