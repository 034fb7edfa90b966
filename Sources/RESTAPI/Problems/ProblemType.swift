import Model

/// What the API says about one `ProblemCode` wherever it occurs.
struct ProblemType: Sendable {
  let code: ProblemCode
  /// The HTTP status it is answered with.
  let status: Int
  let title: String
  /// What a person can do, where the error itself doesn't say it better: begins with a verb, without a full stop.
  let remedy: String
  /// The text of its page, below the title.
  let explanation: String
  /// Seconds after which the same request may succeed, for what passes by itself.
  let retryAfter: Int?

  init(
    _ code: ProblemCode, _ status: Int, _ title: String, _ explanation: String, remedy: String, retryAfter: Int? = nil
  ) {
    self.code = code
    self.status = status
    self.title = title
    self.remedy = remedy
    self.explanation = explanation
    self.retryAfter = retryAfter
  }

  /// The URI reference that names the type, and where its page is.
  var path: String { "/docs/problems/\(code.rawValue)" }

  var remedySentence: String { remedy.prefix(1).uppercased() + remedy.dropFirst() + "." }

  static func of(_ code: ProblemCode) -> ProblemType { all[code] ?? entry(code) }

  private static let all = Dictionary(uniqueKeysWithValues: ProblemCode.allCases.map { ($0, entry($0)) })
}
