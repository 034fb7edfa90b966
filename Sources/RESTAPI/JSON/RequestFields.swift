import Bytes
import Model

/// The members of an object in a request's body, each asked for once.
///
/// Faults are gathered, so that a person learns of all of them at once; ``finish()`` throws them, and with them every
/// member that no reader asked for. Local to one request.
final class RequestFields {
  private final class Faults {
    var found: [(field: Field, detail: String)] = []
  }

  /// At most this many faults are told.
  static let maximumFaultCount = 20

  private let members: [String: JSONValue]
  private let field: Field
  private let faults: Faults
  private var known: [String] = []
  private var children: [RequestFields] = []

  /// - Throws: `malformedJSON`, `invalidField` if the body isn't an object.
  convenience init(body: [UInt8]) throws(DomainError) {
    let value: JSONValue
    do {
      value = try JSONParser.parse(body)
    } catch {
      throw DomainError(error)
    }
    guard case .object(let members) = value else {
      throw DomainError(
        .invalidField, "the body must be a JSON object",
        faults: [DomainError.Fault(Field(), "must be an object")])
    }
    self.init(members: members, field: Field(), faults: Faults())
  }

  private init(members: [String: JSONValue], field: Field, faults: Faults) {
    self.members = members
    self.field = field
    self.faults = faults
  }

  /// Throws `invalidField` if anything was wrong so far or a member is unknown.
  func finish() throws(DomainError) {
    refuseUnknownMembers()
    guard let first = faults.found.first else { return }
    let place = first.field.steps.isEmpty ? "the body" : "'\(first.field.pointer)'"
    let more = faults.found.count > 1 ? " (and \(faults.found.count - 1) more)" : ""
    throw DomainError(
      .invalidField, "\(place) \(first.detail)\(more)",
      faults: faults.found.prefix(Self.maximumFaultCount).map { DomainError.Fault($0.field, $0.detail) })
  }

  private func refuseUnknownMembers() {
    for name in members.keys.sorted() where !known.contains(name) {
      let choices = known.isEmpty ? "there are none" : "known are \(known.joined(separator: ", "))"
      refuse(name, "is not a known field; \(choices)")
    }
    for child in children { child.refuseUnknownMembers() }
  }

  func refuse(_ name: String, _ detail: String) {
    refuse(field.member(name), detail)
  }

  private func refuse(_ name: String, at index: Int, _ detail: String) {
    refuse(field.member(name).item(index), detail)
  }

  private func refuse(_ field: Field, _ detail: String) {
    faults.found.append((field, detail))
  }

  // MARK: Members

  /// nil and, if it is required, a fault where the member is missing.
  private func value(_ name: String, required: Bool) -> JSONValue? {
    known.append(name)
    let value = members[name]
    if value == nil, required { refuse(name, "is missing") }
    return value
  }

  private func mismatch(_ name: String, _ expected: String) {
    refuse(name, "must be \(expected)")
  }

  func string(_ name: String, required: Bool = true) -> String? {
    guard let value = value(name, required: required) else { return nil }
    guard case .string(let text) = value else {
      mismatch(name, "a string")
      return nil
    }
    guard !text.utf8.contains(0) else {
      refuse(name, "holds a NUL character")
      return nil
    }
    return text
  }

  func boolean(_ name: String, required: Bool = true) -> Bool? {
    guard let value = value(name, required: required) else { return nil }
    guard case .bool(let flag) = value else {
      mismatch(name, "true or false")
      return nil
    }
    return flag
  }

  /// A whole number from 0 on.
  func count(_ name: String, unit: String, required: Bool = true) -> UInt64? {
    guard let value = value(name, required: required) else { return nil }
    guard case .integer(let number) = value, number >= 0 else {
      mismatch(name, "a whole number of \(unit), 0 or more")
      return nil
    }
    return UInt64(number)
  }

  /// One of the cases.
  func choice<Choice: CaseIterable & RawRepresentable<String>>(
    _ name: String, of type: Choice.Type = Choice.self, required: Bool = true
  ) -> Choice? {
    guard let text = string(name, required: required) else { return nil }
    if let choice = Choice(rawValue: text) { return choice }
    let possible = Choice.allCases.map(\.rawValue).joined(separator: ", ")
    refuse(name, "must be one of \(possible)")
    return nil
  }

  func resourceName(_ name: String, required: Bool = true) -> ResourceName? {
    guard let text = string(name, required: required) else { return nil }
    guard let resourceName = ResourceName(text) else {
      refuse(name, "isn't a name: \(ResourceName.rule)")
      return nil
    }
    return resourceName
  }

  func reference<Entity>(
    _ name: String, to type: Entity.Type = Entity.self, required: Bool = true
  ) -> Reference<Entity>? {
    guard let text = string(name, required: required) else { return nil }
    guard let reference = Reference<Entity>(text) else {
      refuse(name, "is neither an id nor a name: \(ResourceName.rule)")
      return nil
    }
    return reference
  }

  /// What has no name is referred to by its id only.
  func id<Entity>(_ name: String, of type: Entity.Type = Entity.self) -> Identifier<Entity>? {
    guard let text = string(name) else { return nil }
    guard let id = Identifier<Entity>(text) else {
      refuse(name, "isn't an id: a ULID of 26 characters")
      return nil
    }
    return id
  }

  /// One or more references, none twice.
  func references<Entity>(_ name: String, to type: Entity.Type = Entity.self, atMost limit: Int) -> [Reference<Entity>]?
  {
    guard let value = value(name, required: true) else { return nil }
    guard case .array(let items) = value, !items.isEmpty, items.count <= limit else {
      mismatch(name, "a list of 1 to \(limit) ids or names")
      return nil
    }
    var references: [Reference<Entity>] = []
    var seen: Set<Reference<Entity>> = []
    for (index, item) in items.enumerated() {
      guard case .string(let text) = item, let reference = Reference<Entity>(text) else {
        refuse(name, at: index, "is neither an id nor a name")
        return nil
      }
      guard seen.insert(reference).inserted else {
        refuse(name, at: index, "stands here twice")
        return nil
      }
      references.append(reference)
    }
    return references
  }

  /// An object whose members this API knows.
  func object(_ name: String, required: Bool = true) -> RequestFields? {
    guard let value = value(name, required: required) else { return nil }
    guard case .object(let members) = value else {
      mismatch(name, "an object")
      return nil
    }
    let child = RequestFields(members: members, field: field.member(name), faults: faults)
    children.append(child)
    return child
  }

  /// One or more objects whose members this API knows.
  func objects(_ name: String, atMost limit: Int) -> [RequestFields]? {
    guard let value = value(name, required: true) else { return nil }
    guard case .array(let items) = value, !items.isEmpty, items.count <= limit else {
      mismatch(name, "a list of 1 to \(limit) objects")
      return nil
    }
    return items.enumerated().compactMap { index, item in
      guard case .object(let members) = item else {
        refuse(name, at: index, "must be an object")
        return nil
      }
      let child = RequestFields(members: members, field: field.member(name).item(index), faults: faults)
      children.append(child)
      return child
    }
  }

  /// An item of a list.
  enum Item {
    case text(String)
    case fields(RequestFields)
  }

  /// Whether the member is there, whoever asks for it.
  func has(_ name: String) -> Bool { members[name] != nil }

  /// Whether the member is there and null: a merge patch removes it.
  func isNull(_ name: String) -> Bool {
    guard members[name] == .null else { return false }
    known.append(name)
    return true
  }

  /// Items, each read by `body`; nil if there is a fault in any.
  /// - Parameter what: the items, in words.
  func list<Value>(
    _ name: String, atMost limit: Int, of what: String, mayBeEmpty: Bool = false, required: Bool = true,
    _ body: (Item) -> Value?
  ) -> [Value]? {
    guard let value = value(name, required: required) else { return nil }
    guard case .array(let items) = value, items.count <= limit, mayBeEmpty || !items.isEmpty else {
      mismatch(name, "a list of \(mayBeEmpty ? 0 : 1) to \(limit) \(what)")
      return nil
    }
    var values: [Value] = []
    for (index, item) in items.enumerated() {
      let before = faults.found.count
      let read: Value?
      switch item {
      case .string(let text): read = body(.text(text))
      case .object(let members):
        let child = RequestFields(members: members, field: field.member(name).item(index), faults: faults)
        children.append(child)
        read = body(.fields(child))
      default: read = nil
      }
      if let read {
        values.append(read)
      } else if faults.found.count == before {
        refuse(name, at: index, "is none of \(what)")
      }
    }
    return values.count == items.count ? values : nil
  }

  /// The value as it stands, for the caller to judge.
  func any(_ name: String, required: Bool = true) -> JSONValue? { value(name, required: required) }

  /// Members that the resource has and a request can't set.
  func refuseFixed(_ names: [String]) {
    for name in names where members[name] != nil {
      known.append(name)
      refuse(name, "can't be changed")
    }
  }

  func absolutePath(_ name: String) -> String? {
    guard let path = string(name) else { return nil }
    guard path.hasPrefix("/"), path.utf8.count <= Self.longestPath else {
      mismatch(name, "an absolute path of the server's host, of at most \(Self.longestPath) bytes")
      return nil
    }
    return path
  }

  /// The URI of an export of an NBD server; the rest of it is judged where it is used.
  func nbdURI(_ name: String) -> String? {
    guard let uri = string(name) else { return nil }
    guard uri.utf8.count <= Self.longestURI, NBDURI.hasScheme(uri) else {
      mismatch(
        name, "an NBD URI of at most \(Self.longestURI) bytes, as nbd://HOST/EXPORT or nbd+unix:///EXPORT?socket=PATH")
      return nil
    }
    return uri
  }

  /// Room for the longest export name that NBD knows, each byte of it escaped, would be 12 KiB: no client writes that.
  static let longestURI = 4096

  /// PATH_MAX without the closing NUL.
  static let longestPath = 4095
}

extension DomainError {
  /// The same with its field, where the request was well formed and only its use told that the field is wrong.
  func about(_ field: Field) -> DomainError {
    guard code == .invalidField, faults.isEmpty else { return self }
    return DomainError(code, detail, remedy: remedy, faults: [Fault(field, detail)])
  }

  /// A body that isn't JSON, or names a member twice.
  init(_ fault: JSONFault) {
    let place = Fault(fault.field, "\(fault.detail) (byte \(fault.offset))")
    switch fault.kind {
    case .syntax:
      self.init(.malformedJSON, "the body isn't valid JSON: at byte \(fault.offset) \(fault.detail)", faults: [place])
    case .duplicateMember:
      self.init(.invalidField, "'\(fault.field.pointer)': \(fault.detail)", faults: [place])
    }
  }
}
