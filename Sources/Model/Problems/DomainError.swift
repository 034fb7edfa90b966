/// A refusal or failure in the domain's words: what happened to what, and what the person can do.
/// Every layer below the API throws this for what a person should read; the API turns it into a problem document.
package struct DomainError: Error, Hashable, Sendable {
  /// What is wrong with one part of the request.
  package struct Fault: Hashable, Sendable {
    package enum Part: Hashable, Sendable {
      case field(Field)
      /// Of the query, by its name.
      case parameter(String)
    }

    package var part: Part
    package var detail: String

    package init(_ part: Part, _ detail: String) {
      self.part = part
      self.detail = detail
    }

    package init(_ field: Field, _ detail: String) { self.init(.field(field), detail) }
  }

  package var code: ProblemCode
  package var detail: String
  /// What the person can do about it, if it can be said.
  package var remedy: String?
  package var faults: [Fault]

  package init(_ code: ProblemCode, _ detail: String, remedy: String? = nil, faults: [Fault] = []) {
    self.code = code
    self.detail = detail
    self.remedy = remedy
    self.faults = faults
  }
}

extension DomainError: CustomStringConvertible {
  package var description: String { "\(code.rawValue): \(detail)" }
}

/// A domain error as it is kept, e.g. as the end of a job.
package struct ProblemDetails: Hashable, Sendable, Codable {
  package var code: ProblemCode
  package var detail: String
  package var remedy: String?

  package init(_ error: DomainError) {
    code = error.code
    detail = error.detail
    remedy = error.remedy
  }
}
