import Bytes
import HTTPServer
import Model

/// The query of one request: only parameters that its route takes, none twice, decoded once.
struct QueryValues {
  /// A query with more parameters than this is refused unread.
  static let maximumCount = 32

  private var values: [QueryParameter: String] = [:]
  /// Of those that may be no UTF-8.
  private var byteValues: [QueryParameter: [UInt8]] = [:]

  /// - Throws: `invalidParameter` with every parameter that is unknown, repeated or not decodable.
  init(_ request: HTTPRequest, taking parameters: [QueryParameter]) throws(DomainError) {
    let pairs = request.queryPairs
    guard !pairs.isEmpty else { return }
    guard pairs.count <= Self.maximumCount else {
      throw DomainError(.invalidParameter, "the query has more than \(Self.maximumCount) parameters")
    }
    var faults: [(parameter: String, detail: String)] = []
    for pair in pairs {
      let bytes = PercentEncoding.decode(pair.value ?? "", plusIsSpace: true)
      guard let name = PercentEncoding.decodedText(pair.name, plusIsSpace: true), let bytes, !bytes.contains(0),
        let value = String(validating: bytes, as: UTF8.self)
          ?? (QueryParameter(rawValue: name)?.takesBytes == true ? "" : nil)
      else {
        faults.append((String(pair.name), "isn't percent-encoded UTF-8 without NUL"))
        continue
      }
      guard let parameter = QueryParameter(rawValue: name), parameters.contains(parameter) else {
        let choices = parameters.map(\.rawValue).joined(separator: ", ")
        faults.append(
          (name, "is not a known parameter here; \(choices.isEmpty ? "there are none" : "known are \(choices)")"))
        continue
      }
      guard values.updateValue(value, forKey: parameter) == nil else {
        faults.append((name, "is given twice"))
        continue
      }
      if parameter.takesBytes { byteValues[parameter] = bytes }
    }
    if !faults.isEmpty { throw Self.error(faults) }
  }

  private static func error(_ faults: [(parameter: String, detail: String)]) -> DomainError {
    let more = faults.count > 1 ? " (and \(faults.count - 1) more)" : ""
    return DomainError(
      .invalidParameter, "parameter '\(faults[0].parameter)' \(faults[0].detail)\(more)",
      faults: faults.map { DomainError.Fault(.parameter($0.parameter), $0.detail) })
  }

  func refusal(_ parameter: QueryParameter, _ detail: String) -> DomainError {
    Self.error([(parameter.rawValue, detail)])
  }

  // MARK: Values

  func text(_ parameter: QueryParameter) -> String? { values[parameter] }

  /// Of a parameter that may be no UTF-8.
  func bytes(_ parameter: QueryParameter) -> [UInt8]? { byteValues[parameter] }

  func boolean(_ parameter: QueryParameter) throws(DomainError) -> Bool {
    switch values[parameter] {
    case nil, "false": false
    case "true": true
    default: throw refusal(parameter, "must be true or false")
    }
  }

  func integer(_ parameter: QueryParameter, in range: ClosedRange<Int>) throws(DomainError) -> Int? {
    guard let text = values[parameter] else { return nil }
    guard let number = Self.digits(text).flatMap(Int.init(exactly:)), range.contains(number) else {
      throw refusal(parameter, "must be a whole number from \(range.lowerBound) to \(range.upperBound)")
    }
    return number
  }

  /// A count of bytes that a file could have.
  func bytes(_ parameter: QueryParameter, from least: UInt64) throws(DomainError) -> UInt64? {
    guard let text = values[parameter] else { return nil }
    guard let number = Self.digits(text), number >= least, number <= UInt64(Int64.max) else {
      throw refusal(parameter, "must be a whole number of bytes, at least \(least)")
    }
    return number
  }

  /// Only digits: no sign, no blank.
  private static func digits(_ text: String) -> UInt64? {
    guard text.utf8.allSatisfy({ $0 >= UInt8(ascii: "0") && $0 <= UInt8(ascii: "9") }) else { return nil }
    return UInt64(text)
  }

  func choice<Choice: CaseIterable & RawRepresentable<String>>(
    _ parameter: QueryParameter, of type: Choice.Type = Choice.self
  ) throws(DomainError) -> Choice? {
    guard let text = values[parameter] else { return nil }
    guard let choice = Choice(rawValue: text) else {
      throw refusal(parameter, "must be one of \(Choice.allCases.map(\.rawValue).joined(separator: ", "))")
    }
    return choice
  }

  /// Several, with commas between them.
  func choices<Choice: CaseIterable & RawRepresentable<String> & Hashable>(
    _ parameter: QueryParameter, of type: Choice.Type = Choice.self
  ) throws(DomainError) -> Set<Choice>? {
    guard let text = values[parameter] else { return nil }
    let choices = text.split(separator: ",", omittingEmptySubsequences: false).map { Choice(rawValue: String($0)) }
    guard choices.allSatisfy({ $0 != nil }) else {
      throw refusal(
        parameter, "must be of \(Choice.allCases.map(\.rawValue).joined(separator: ", ")), with commas between them")
    }
    return Set(choices.compactMap(\.self))
  }

  func id<Entity>(_ parameter: QueryParameter, of type: Entity.Type = Entity.self) throws(DomainError) -> Identifier<
    Entity
  >? {
    guard let text = values[parameter] else { return nil }
    guard let id = Identifier<Entity>(text) else { throw refusal(parameter, "isn't an id") }
    return id
  }

  func reference<Entity>(
    _ parameter: QueryParameter, to type: Entity.Type = Entity.self
  ) throws(DomainError) -> Reference<Entity>? {
    guard let text = values[parameter] else { return nil }
    guard let reference = Reference<Entity>(text) else {
      throw refusal(parameter, "is neither an id nor a name: \(ResourceName.rule)")
    }
    return reference
  }

  /// The page that `limit` and `cursor` ask for.
  func page() throws(DomainError) -> PageRequest {
    PageRequest(after: values[.cursor], limit: try integer(.limit, in: Self.limits) ?? Self.defaultLimit)
  }

  /// How many items a page of any list may have.
  static let limits = 1...1000
  static let defaultLimit = 100

  /// Whether the answer may be so long that making it would hold up the thread that serves other connections.
  var asksForMuch: Bool { values[.limit].flatMap(Int.init).map { $0 > Self.defaultLimit } ?? false }
}
