import HTTPServer
import Model

/// One request on its way through a route: the head is checked, the body is there.
struct Call: Sendable {
  let request: HTTPRequest
  let match: Router.Match
  let query: QueryValues
  /// Empty where there was none.
  var body: [UInt8] = []
  /// All callers are the same one as long as there are no tokens.
  let caller = Principal.anonymous

  init(_ request: HTTPRequest, _ match: Router.Match) throws(DomainError) {
    self.request = request
    self.match = match
    query = try QueryValues(request, taking: match.route.query)
  }

  // MARK: The path

  /// The thing that the path's first parameter names, by id or name.
  func reference<Entity>(to what: String, _ type: Entity.Type = Entity.self) throws(DomainError) -> Reference<Entity> {
    guard let reference = Reference<Entity>(match.parameters[0]) else {
      throw DomainError(
        .notFound, "there is no \(what) '\(match.parameters[0])': that is neither an id nor a name",
        remedy: "an id is a ULID; \(ResourceName.rule)")
    }
    return reference
  }

  /// The thing that a parameter of the path names, the first one unless told otherwise; by id only.
  func id<Entity>(
    of what: String, _ type: Entity.Type = Entity.self, at position: Int = 0
  ) throws(DomainError) -> Identifier<Entity> {
    guard let id = Identifier<Entity>(match.parameters[position]) else {
      throw DomainError(
        .notFound, "there is no \(what) '\(match.parameters[position])': that isn't an id",
        remedy: "take the id from the list: it is a ULID of 26 characters")
    }
    return id
  }

  // MARK: The body

  /// The members of the body, which the caller must `finish()`.
  func fields() throws(DomainError) -> RequestFields {
    try RequestFields(body: body.isEmpty ? Array("{}".utf8) : body)
  }
}
