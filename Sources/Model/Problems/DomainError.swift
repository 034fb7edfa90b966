/// A refusal or failure in the domain's words: what happened to what, and what the person can do.
/// Every layer below the API throws this for what a person should read; the API turns it into a problem document.
package struct DomainError: Error, Hashable, Sendable {
  /// A fault at one place of the request body (`pointer` is a JSON pointer) or in a query parameter.
  package struct Fault: Hashable, Sendable, Codable {
    package var pointer: String
    package var detail: String

    package init(pointer: String, detail: String) {
      self.pointer = pointer
      self.detail = detail
    }
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
