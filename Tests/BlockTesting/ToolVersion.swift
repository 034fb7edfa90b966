import Glibc
import Testing

/// The versions of QEMU and libnbd that prove things in the tests. A guest's QEMU is rarely the one that is installed
/// here, and versions differ in what they send and accept, so whatever one of them proves is proved by both.
///
/// A test marked ``Testing/Trait/eachToolVersion`` runs once with each, which it finds in ``current``; a judge that only
/// reads an image is asked in each version at once, see ``available``.
package enum ToolVersion: String, Sendable, CaseIterable {
  /// Of the system's packages.
  case installed
  /// The newest that Debian has, as `make newest-tools` brings it.
  case newest

  /// What a test runs with; threads of its own don't inherit it.
  @TaskLocal package static var current = ToolVersion.installed

  /// Both, or only the installed one in a test run without `make`, which says so.
  package static let available: [ToolVersion] = {
    if folder != nil { return allCases }
    let warning = "NOT TESTED WITH THE NEWEST QEMU: run `make newest-tools` first, or use `make test`.\n"
    _ = warning.withCString { write(STDERR_FILENO, $0, strlen($0)) }
    return [.installed]
  }()

  /// Each of them by turns.
  package static func ofTurn(_ number: Int) -> ToolVersion { available[number % available.count] }

  /// Where the newest ones are: the environment's `NEWEST_TOOLS`, which `make` sets, or its place in the checkout.
  private static let folder: String? = {
    if let text = getenv("NEWEST_TOOLS") { return String(cString: text) }
    let path = #filePath.split(separator: "/").dropLast(3).map { "/" + $0 }.joined() + "/.build-newest"
    return access(path + "/ready", F_OK) == 0 ? path + "/bin" : nil
  }()

  private static let names: Set<String> = [
    "qemu-img", "qemu-io", "qemu-nbd", "qemu-storage-daemon", "nbdinfo", "nbdcopy",
  ]

  /// The program itself, or its name where all versions share it.
  package func path(of program: String) -> String {
    guard self == .newest, let folder = Self.folder, Self.names.contains(program) else { return program }
    return "\(folder)/\(program)"
  }
}

/// Runs a test once with each version of the tools.
package struct EachToolVersion: TestTrait, SuiteTrait, TestScoping {
  package let isRecursive = true

  package func provideScope(
    for test: Test, testCase: Test.Case?, performing body: @concurrent @Sendable () async throws -> Void
  ) async throws {
    for version in ToolVersion.available {
      let naming = IssueHandlingTrait.compactMapIssues { issue in
        var issue = issue
        issue.comments.append("with the \(version.rawValue) tools")
        return issue
      }
      try await naming.provideScope(for: test, testCase: testCase) {
        try await ToolVersion.$current.withValue(version) { try await body() }
      }
    }
  }
}

extension Trait where Self == EachToolVersion {
  /// Runs the test, or each of the suite, once with each version of QEMU and libnbd.
  package static var eachToolVersion: EachToolVersion { EachToolVersion() }
}
