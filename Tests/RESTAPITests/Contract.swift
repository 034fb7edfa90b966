import Assets
import Foundation
import Model
import Testing
import Yams

/// openapi.yaml as the program carries it, with what tests ask of it.
struct Contract: Sendable {
  struct Operation: Sendable {
    /// As `GET /api/v1/images/{image}`.
    let name: String
    let method: String
    let segments: [String]
    let parameters: [JSONValue]
    let requestBody: JSONValue?
    /// By status.
    let responses: [Int: JSONValue]
  }

  static let shared = Result { try Contract() }

  let root: JSONValue
  let operations: [Operation]

  private init() throws {
    let text = try #require(EmbeddedFile.named("openapi.yaml")).text
    let root = try Self.value(try #require(try Yams.load(yaml: text)))
    self.root = root
    var operations: [Operation] = []
    for (path, item) in (root["paths"] ?? .null).members {
      for (method, operation) in item.members where method != "parameters" {
        let shared = item["parameters"]?.items ?? []
        var responses: [Int: JSONValue] = [:]
        for (status, response) in (operation["responses"] ?? .null).members {
          responses[try #require(Int(status))] = Self.resolved(response, in: root)
        }
        operations.append(
          Operation(
            name: "\(method.uppercased()) \(path)", method: method.uppercased(),
            segments: path.split(separator: "/").map(String.init),
            parameters: (shared + (operation["parameters"]?.items ?? [])).map { Self.resolved($0, in: root) },
            requestBody: operation["requestBody"].map { Self.resolved($0, in: root) }, responses: responses))
      }
    }
    self.operations = operations.sorted { $0.name < $1.name }
  }

  /// The operation that a request is for; HEAD is as GET.
  func operation(method: String, target: String) -> Operation? {
    let path = target.prefix { $0 != "?" }.split(separator: "/", omittingEmptySubsequences: true)
      .map { $0.removingPercentEncoding ?? String($0) }
    return operations.first { operation in
      operation.method == (method == "HEAD" ? "GET" : method) && operation.segments.count == path.count
        && zip(operation.segments, path).allSatisfy { $0.hasPrefix("{") || $0 == $1 }
    }
  }

  func resolved(_ value: JSONValue) -> JSONValue { Self.resolved(value, in: root) }

  /// What `$ref` leads to; its siblings count as well.
  private static func resolved(_ value: JSONValue, in root: JSONValue) -> JSONValue {
    guard let reference = value["$ref"]?.text else { return value }
    var target = root
    for part in reference.dropFirst(2).split(separator: "/") {
      target = target[String(part)] ?? .null
    }
    if target == .null { Issue.record("\(reference) leads nowhere") }
    var members = resolved(target, in: root).memberTable
    for (name, sibling) in value.members where name != "$ref" { members[name] = sibling }
    return .object(members)
  }

  private static func value(_ any: Any) throws -> JSONValue {
    switch any {
    case let flag as Bool: return .bool(flag)
    case let number as Int: return .integer(Int64(number))
    case let number as Double: return .number(number)
    case let text as String: return .string(text)
    case let items as [Any]: return .array(try items.map(value))
    case let members as [AnyHashable: Any]:
      return .object(
        Dictionary(
          uniqueKeysWithValues: try members.map { key, member in
            (try #require(key.base as? String, "key \(key)"), try value(member))
          }))
    case is NSNull: return .null
    default: throw SchemaFault("the contract holds a \(type(of: any))")
    }
  }
}

extension JSONValue {
  var text: String? { if case .string(let text) = self { text } else { nil } }
  var items: [JSONValue] { if case .array(let items) = self { items } else { [] } }
  var memberTable: [String: JSONValue] { if case .object(let members) = self { members } else { [:] } }
  /// In order of their names.
  var members: [(key: String, value: JSONValue)] { memberTable.sorted { $0.key < $1.key } }
  var integer: Int64? { if case .integer(let number) = self { number } else { nil } }
  var flag: Bool? { if case .bool(let flag) = self { flag } else { nil } }

  /// The value at a path of member names and indices.
  func at(_ path: String...) -> JSONValue? {
    path.reduce(self) { value, part in
      if let index = Int(part), case .array(let items)? = value {
        return items.indices.contains(index) ? items[index] : nil
      }
      return value?[part]
    }
  }
}
