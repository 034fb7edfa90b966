/// A field of a request's body, by the way that leads there: the whole body is the empty way.
package struct Field: Hashable, Sendable {
  package enum Step: Hashable, Sendable {
    case member(String)
    case item(Int)
  }

  package private(set) var steps: [Step]

  package init(_ steps: [Step] = []) { self.steps = steps }

  package init(_ name: String) { self.init([.member(name)]) }

  package mutating func enter(_ step: Step) { steps.append(step) }
  package mutating func leave() { steps.removeLast() }

  package func member(_ name: String) -> Field { Field(steps + [.member(name)]) }
  package func item(_ index: Int) -> Field { Field(steps + [.item(index)]) }
}

/// The fields that a use case can find fault with, once the request is known to be well formed.
extension Field {
  package static let confirm = Field("confirm")
  package static let format = Field("format")
  package static let images = Field("images")
  package static let labels = Field("labels")
  package static let exclusive = Field("exclusive")
  package static let from = Field("from")
  package static let readOnly = Field("readOnly")
  package static let schedule = Field("schedule")
  package static let targets = Field("targets")
  package static let timeZone = Field("timeZone")
  package static let tls = Field("tls")
  package static let tracker = Field("tracker")
  package static let until = Field("until")
  package static let sourceURI = Field("source").member("uri")
  package static let targetURI = Field("target").member("uri")
}
