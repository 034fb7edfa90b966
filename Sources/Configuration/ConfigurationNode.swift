import Model
import Yams

/// A value in the file, with its place for the faults that are found in it.
///
/// Reading never stops: a fault is noted, and a value of the right type stands in. The caller throws the faults
/// at the end.
struct ConfigurationNode {
  let keyPath: String
  /// Nil where a default stands in.
  let line: Int?
  private let node: Node
  private let faults: FaultList

  init(_ node: Node, keyPath: String, faults: FaultList, isDefault: Bool = false) {
    self.node = node
    self.keyPath = keyPath
    self.faults = faults
    line = isDefault ? nil : node.mark?.line
  }

  func fault(_ detail: String) { faults.add(keyPath, line: line, detail) }

  // MARK: Scalars

  /// Text that isn't empty; "" if it is at fault.
  var text: String {
    guard case .scalar(let scalar) = node else { return fault("must be text", else: "") }
    if scalar.style == .plain {
      // What YAML takes for a number or a truth value may not be what was written: 1.10, no, 0x10.
      guard node.tag.description == "tag:yaml.org,2002:str" else {
        let isNothing = node.tag.description == "tag:yaml.org,2002:null"
        return fault(isNothing ? "is empty" : "must be text: put '\(scalar.string)' in quotes", else: "")
      }
    }
    guard !scalar.string.isEmpty else { return fault("is empty", else: "") }
    guard !scalar.string.utf8.contains(0) else { return fault("holds a zero byte", else: "") }
    return scalar.string
  }

  /// The characters as they stand in the file, for values that have a form of their own; nil if it is no scalar.
  var plainText: String? {
    if case .scalar(let scalar) = node { scalar.string } else { nil }
  }

  func integer(in range: ClosedRange<Int>) -> Int {
    guard let number = plainText.flatMap({ Int($0) }), range.contains(number) else {
      return fault("must be a whole number from \(range.lowerBound) to \(range.upperBound)", else: range.lowerBound)
    }
    return number
  }

  /// A whole number with its unit: `500ms`, `2s`.
  func duration(in range: ClosedRange<Duration>) -> Duration {
    let text = plainText ?? ""
    let (digits, unit) = (text.prefix(while: \.isNumber), text.drop(while: \.isNumber))
    let units: [Substring: Duration] = ["ms": .milliseconds(1), "s": .seconds(1)]
    guard let number = Int32(digits), let one = units[unit], range.contains(one * Int(number)) else {
      return fault(
        "must be a time such as 500ms or 2s, from \(Int(range.lowerBound / .milliseconds(1)))ms to "
          + "\(Int(range.upperBound / .seconds(1)))s", else: range.lowerBound)
    }
    return one * Int(number)
  }

  func truth() -> Bool {
    guard let text = plainText, text == "true" || text == "false" else {
      return fault("must be true or false", else: false)
    }
    return text == "true"
  }

  func share() -> Double {
    guard let number = plainText.flatMap({ Double($0) }), (0...1).contains(number) else {
      return fault("must be a number from 0 to 1", else: 0)
    }
    return number
  }

  func choice<Choice: RawRepresentable<String> & CaseIterable>(_ type: Choice.Type, else standIn: Choice) -> Choice {
    guard let text = plainText else { return fault("must be a single value", else: standIn) }
    guard let choice = Choice(rawValue: text) else {
      let known = Choice.allCases.map(\.rawValue).joined(separator: ", ")
      return fault("is '\(text)': must be one of \(known)", else: standIn)
    }
    return choice
  }

  /// Nil if it is at fault.
  var name: ResourceName? {
    let text = text
    guard !text.isEmpty else { return nil }
    guard let name = ResourceName(text) else { return fault("'\(text)' is no name: \(ResourceName.rule)", else: nil) }
    return name
  }

  // MARK: Collections

  /// The items; none if it is at fault.
  var items: [ConfigurationNode] {
    guard case .sequence(let sequence) = node else { return fault("must be a list", else: []) }
    return sequence.enumerated().map { index, item in
      ConfigurationNode(item, keyPath: "\(keyPath)[\(index)]", faults: faults, isDefault: line == nil)
    }
  }

  /// The items of a list, or the one value that stands in a list's place.
  var itemOrItems: [ConfigurationNode] {
    if case .sequence = node { items } else { [self] }
  }

  /// Text by text.
  var dictionary: [String: String] {
    guard case .mapping(let mapping) = node else { return fault("must be a section", else: [:]) }
    var result: [String: String] = [:]
    for (key, value) in mapping {
      guard let key = key.scalar?.string else {
        fault("has a key that isn't text")
        continue
      }
      result[key] = ConfigurationNode(value, keyPath: "\(keyPath).\(key)", faults: faults).text
    }
    return result
  }

  /// The section whose keys are `known`; any other key is noted.
  func section(_ known: [ConfigurationKey]) -> ConfigurationSection {
    guard case .mapping(let mapping) = node else {
      fault("must be a section")
      return ConfigurationSection(known: known, values: [:], place: self, faults: faults, isWhole: false)
    }
    var values: [String: ConfigurationNode] = [:]
    for (key, value) in mapping {
      let name = key.scalar?.string ?? "?"
      let place = keyPath.isEmpty ? name : "\(keyPath).\(name)"
      if known.contains(where: { $0.name == name }) {
        values[name] = ConfigurationNode(value, keyPath: place, faults: faults)
      } else {
        let near = known.first { $0.name.lowercased() == name.lowercased() }
        let hint = near.map { ": is '\($0.name)' meant?" } ?? ", only \(known.map(\.name).joined(separator: ", "))"
        faults.add(place, line: key.mark?.line, "isn't a key here\(hint)")
      }
    }
    return ConfigurationSection(known: known, values: values, place: self, faults: faults, isWhole: true)
  }

  private func fault<Value>(_ detail: String, else standIn: Value) -> Value {
    fault(detail)
    return standIn
  }
}

/// A mapping whose keys are known.
struct ConfigurationSection {
  private let known: [ConfigurationKey]
  private let values: [String: ConfigurationNode]
  private let place: ConfigurationNode
  private let faults: FaultList
  /// False if there was no section at all: that is fault enough.
  let isWhole: Bool

  init(
    known: [ConfigurationKey], values: [String: ConfigurationNode], place: ConfigurationNode, faults: FaultList,
    isWhole: Bool
  ) {
    self.known = known
    self.values = values
    self.place = place
    self.faults = faults
    self.isWhole = isWhole
  }

  /// The key's value, or its default; nil without either, which is noted.
  func required(_ name: String) -> ConfigurationNode? {
    if let value = optional(name) { return value }
    if isWhole { place.fault("lacks '\(name)'") }
    return nil
  }

  /// The key's value, or its default, if there is one.
  func optional(_ name: String) -> ConfigurationNode? {
    if let value = values[name] { return value }
    guard let standard = known.first(where: { $0.name == name })?.standard,
      let node = try? Yams.compose(yaml: standard)
    else { return nil }
    let keyPath = place.keyPath.isEmpty ? name : "\(place.keyPath).\(name)"
    return ConfigurationNode(node, keyPath: keyPath, faults: faults, isDefault: true)
  }

  func fields(of name: String) -> [ConfigurationKey] { known.first { $0.name == name }?.fields ?? [] }
}
