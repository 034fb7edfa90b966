import Bytes
import Foundation
import HTTPServer
import Model

/// A small page without scripts. Its one style sheet is inline and allowed by its hash.
struct HTMLPage {
  let title: String
  /// HTML; whatever text stands in it is escaped already.
  let body: String

  var response: HTTPResponse {
    let text = """
      <!doctype html>
      <html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
      <title>\(Self.escape(title)) – Cobweb</title><style>\(Self.style)</style></head>
      <body><h1>\(Self.escape(title))</h1>
      \(body)
      </body></html>

      """
    return HTTPResponse(
      status: 200,
      headers: [
        "Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": Self.policy,
        "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache",
      ],
      content: .bytes(Array(text.utf8)))
  }

  static func escape(_ text: String) -> String {
    // By scalars: a character may be a "<" with a combining mark behind it.
    text.unicodeScalars.reduce(into: "") { result, scalar in
      switch scalar {
      case "&": result += "&amp;"
      case "<": result += "&lt;"
      case ">": result += "&gt;"
      case "\"": result += "&quot;"
      default: result.unicodeScalars.append(scalar)
      }
    }
  }

  private static let style =
    "body{font:16px/1.5 system-ui,sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem;color:#1d2329}"
    + "code{background:#eef1f4;padding:.1em .3em;border-radius:3px}table{border-collapse:collapse}"
    + "td,th{text-align:left;padding:.2rem 1rem .2rem 0;border-bottom:1px solid #dde2e7;vertical-align:top}"

  private static let policy =
    "default-src 'none'; style-src 'sha256-\(Data(Digest(of: style).bytes).base64EncodedString())'; base-uri 'none'; "
    + "form-action 'none'; frame-ancestors 'none'"
}
