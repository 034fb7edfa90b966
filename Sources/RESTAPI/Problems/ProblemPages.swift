import HTTPServer
import Model

/// The pages behind the `type` of problem documents, made from the same table.
enum ProblemPages {
  static func list() -> HTMLPage {
    let rows = ProblemCode.allCases.map { code in
      let type = ProblemType.of(code)
      return "<tr><td><a href=\"\(type.path)\">\(code.rawValue)</a></td><td>\(type.status)</td>"
        + "<td>\(HTMLPage.escape(type.title))</td></tr>"
    }
    return HTMLPage(
      title: "Problems",
      body: """
        <p>Every way in which this server says no. The code is part of the API and doesn't change.</p>
        <table><thead><tr><th>code</th><th>status</th><th>meaning</th></tr></thead><tbody>
        \(rows.joined(separator: "\n"))
        </tbody></table>
        """)
  }

  static func page(of code: ProblemCode) -> HTMLPage {
    let type = ProblemType.of(code)
    let retry = type.retryAfter.map { "<p>It may pass by itself: try again after \($0) s.</p>" } ?? ""
    return HTMLPage(
      title: type.title,
      body: """
        <p><code>\(code.rawValue)</code>, status \(type.status)</p>
        <p>\(HTMLPage.escape(type.explanation))</p>
        <h2>What to do</h2>
        <p>\(HTMLPage.escape(type.remedySentence))</p>
        \(retry)
        <p><a href="/docs/problems">All problems</a></p>
        """)
  }
}
