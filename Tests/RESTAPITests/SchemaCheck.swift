import Foundation
import Model

/// Where a value breaks its schema.
struct SchemaFault: Error, CustomStringConvertible {
  let description: String

  init(_ description: String) { self.description = description }
}

/// JSON Schema (2020-12), as far as the contract uses it, and stricter: every schema counts as closed. Clients have to
/// accept what they don't know, but what the server sends must stand in the contract. So `x-known-values` is read as
/// `enum`, `x-known-shapes` as `oneOf`, `x-pattern` as `pattern`, and an object with `properties` has no others unless
/// it says so.
///
/// A keyword that isn't known here is a fault, so that nothing is checked less than it seems.
struct SchemaCheck {
  let contract: Contract

  private static let silent: Set<String> = [
    "description", "title", "example", "examples", "default", "format", "$ref", "discriminator",
  ]

  func check(_ value: JSONValue, _ schema: JSONValue, at place: String = "") throws {
    for (keyword, argument) in contract.resolved(schema).members where !Self.silent.contains(keyword) {
      try check(value, keyword, argument, contract.resolved(schema), place)
    }
  }

  private func check(
    _ value: JSONValue, _ keyword: String, _ argument: JSONValue, _ schema: JSONValue, _ place: String
  ) throws {
    func expect(_ holds: Bool) throws {
      guard holds else { throw SchemaFault("\(place): \(value) breaks \(keyword): \(argument)") }
    }
    switch keyword {
    case "type":
      try expect((argument.text.map { [$0] } ?? argument.items.compactMap(\.text)).contains { has(value, $0) })
    case "enum": try expect(argument.items.contains(value))
    case "x-known-values":
      try expect(argument.items.contains(value) || value == .null && schema["type"]?.items.contains("null") == true)
    case "const": try expect(argument == value)
    case "oneOf", "x-known-shapes": try expect(argument.items.count { fits(value, $0) } == 1)
    case "anyOf": try expect(argument.items.contains { fits(value, $0) })
    case "pattern", "x-pattern", "minLength", "maxLength", "minimum", "maximum":
      try checkScalar(value, keyword, argument, expect)
    case "items":
      for (index, item) in value.items.enumerated() { try check(item, argument, at: "\(place)/\(index)") }
    case "minItems": try expect(!value.isArray || value.items.count >= argument.integer ?? 0)
    case "maxItems": try expect(value.items.count <= argument.integer ?? 0)
    case "uniqueItems": try expect(Set(value.items).count == value.items.count)
    case "required": try expect(!value.isObject || argument.items.allSatisfy { value[$0.text ?? ""] != nil })
    case "maxProperties": try expect(value.members.count <= argument.integer ?? 0)
    case "propertyNames":
      for name in value.members.map(\.key) { try check(.string(name), argument, at: "\(place)/\(name)") }
    case "properties":
      for (name, member) in value.members {
        if let schema = argument[name] {
          try check(member, schema, at: "\(place)/\(name)")
        } else if schema["additionalProperties"] == nil {
          throw SchemaFault("\(place): '\(name)' isn't documented")
        }
      }
    case "additionalProperties":
      for (name, member) in value.members where schema["properties"]?[name] == nil {
        if argument == .bool(false) { throw SchemaFault("\(place): '\(name)' isn't documented") }
        try check(member, argument, at: "\(place)/\(name)")
      }
    default: throw SchemaFault("the keyword \(keyword) isn't known to the check")
    }
  }

  private func checkScalar(
    _ value: JSONValue, _ keyword: String, _ argument: JSONValue, _ expect: (Bool) throws -> Void
  ) throws {
    switch (keyword, value) {
    case ("pattern", .string(let text)), ("x-pattern", .string(let text)):
      let expression = try NSRegularExpression(pattern: argument.text ?? "")
      try expect(expression.firstMatch(in: text, range: NSRange(text.startIndex..., in: text)) != nil)
    case ("minLength", .string(let text)): try expect(text.unicodeScalars.count >= argument.integer ?? 0)
    case ("maxLength", .string(let text)): try expect(text.unicodeScalars.count <= argument.integer ?? 0)
    case ("minimum", .integer(let number)): try expect(number >= argument.integer ?? 0)
    case ("maximum", .integer(let number)): try expect(number <= argument.integer ?? 0)
    default: break
    }
  }

  private func fits(_ value: JSONValue, _ schema: JSONValue) -> Bool {
    (try? check(value, schema)) != nil
  }

  private func has(_ value: JSONValue, _ type: String) -> Bool {
    switch (value, type) {
    case (.null, "null"), (.bool, "boolean"), (.integer, "integer"), (.integer, "number"), (.number, "number"),
      (.string, "string"), (.array, "array"), (.object, "object"):
      true
    default: false
    }
  }
}

extension JSONValue {
  fileprivate var isArray: Bool { if case .array = self { true } else { false } }
  fileprivate var isObject: Bool { if case .object = self { true } else { false } }
}
