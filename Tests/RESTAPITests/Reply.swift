import Foundation
import HTTPServer
import Model
import Testing

@testable import RESTAPI

/// An answer as it came over the wire.
struct Reply: Sendable {
  let method: String
  let target: String
  let status: Int
  let headers: [(name: String, value: String)]
  let body: [UInt8]

  func header(_ name: String) -> String? {
    headers.first { $0.name.lowercased() == name.lowercased() }?.value
  }

  var text: String { String(decoding: body, as: UTF8.self) }

  /// The body as JSON; null if it isn't.
  var json: JSONValue { (try? JSONParser.parse(body)) ?? .null }

  /// Its member of that name as text, "" if there is none.
  subscript(name: String) -> String { json[name]?.text ?? "" }

  /// Asserts the status, and of a problem the code.
  @discardableResult
  func expect(_ status: Int, _ code: ProblemCode? = nil, sourceLocation: SourceLocation = #_sourceLocation) -> Reply {
    #expect(self.status == status, "\(method) \(target): \(text)", sourceLocation: sourceLocation)
    if let code {
      #expect(self["code"] == code.rawValue, "\(method) \(target): \(text)", sourceLocation: sourceLocation)
    }
    return self
  }
}

extension Reply {
  /// Fields that the HTTP layer writes by itself.
  private static let ofTransport: Set<String> = [
    "date", "connection", "content-length", "content-type", "transfer-encoding", "keep-alive",
  ]

  /// Holds the answer against the contract: status, headers and body are documented for the operation.
  func check(_ contract: Contract) throws {
    try checkProblem(contract)
    guard let operation = contract.operation(method: method, target: target), status != 405 else { return }
    guard let documented = operation.responses[status] else {
      throw SchemaFault("\(operation.name) answers \(status), which isn't documented: \(text)")
    }
    let fields = (documented["headers"] ?? .null).members.map { ($0.key.lowercased(), contract.resolved($0.value)) }
    for header in headers where !Self.ofTransport.contains(header.name.lowercased()) {
      guard let field = fields.first(where: { $0.0 == header.name.lowercased() })?.1 else {
        throw SchemaFault("\(operation.name) \(status): header \(header.name) isn't documented")
      }
      try SchemaCheck(contract: contract).check(.string(header.value), field["schema"] ?? .null, at: header.name)
    }
    for (name, field) in fields where field["required"] == .bool(true) && header(name) == nil {
      throw SchemaFault("\(operation.name) \(status): header \(name) is missing")
    }
    try checkContent(documented, operation, contract)
  }

  private func checkContent(_ documented: JSONValue, _ operation: Contract.Operation, _ contract: Contract) throws {
    let type = (header("Content-Type") ?? "").prefix { $0 != ";" }
    guard let content = documented["content"] else {
      guard body.isEmpty else { throw SchemaFault("\(operation.name) \(status) has a body: \(text)") }
      return
    }
    guard let schema = content[String(type)]?["schema"] else {
      throw SchemaFault("\(operation.name) \(status): content type \(type) isn't documented")
    }
    guard method != "HEAD" else {
      if !body.isEmpty { throw SchemaFault("an answer to HEAD has a body") }
      return
    }
    guard type.hasSuffix("json") else { return }
    do {
      try SchemaCheck(contract: contract).check(try JSONParser.parse(body), schema)
    } catch {
      throw SchemaFault("\(operation.name) \(status): \(error) in \(text)")
    }
  }

  /// Every refusal is a problem document, on documented paths and elsewhere.
  private func checkProblem(_ contract: Contract) throws {
    guard status >= 400 else { return }
    guard header("Content-Type") == "application/problem+json" else {
      throw SchemaFault("\(method) \(target): \(status) isn't a problem document: \(text)")
    }
    if method == "HEAD" { return }
    let problem = try JSONParser.parse(body)
    let schema: JSONValue = ["$ref": "#/components/schemas/Problem"]
    try SchemaCheck(contract: contract).check(problem, schema, at: "\(method) \(target)")
    guard problem["status"] == .integer(Int64(status)),
      problem["instance"] == .string("/requests/\(header("X-Request-Id") ?? "")")
    else { throw SchemaFault("\(method) \(target): the problem contradicts its answer: \(text)") }
  }
}
