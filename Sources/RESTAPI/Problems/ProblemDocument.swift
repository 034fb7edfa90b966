import Model

/// A problem document (RFC 9457) as this API writes it.
struct ProblemDocument: JSONWritable {
  let type: ProblemType
  let detail: String
  let remedy: String
  /// Where it happened: the request, or the job that ended so.
  let instance: String
  let faults: [DomainError.Fault]

  init(_ error: DomainError, instance: String) {
    type = ProblemType.of(error.code)
    detail = error.detail
    remedy = error.remedy ?? type.remedy
    self.instance = instance
    faults = error.faults
  }

  /// The end of a job.
  init(_ details: ProblemDetails, job: JobID) { self.init(details, at: APIPath.job(job)) }

  /// Why a fleecing is broken.
  init(_ details: ProblemDetails, fleecing: FleecingID) { self.init(details, at: APIPath.fleecing(fleecing)) }

  private init(_ details: ProblemDetails, at instance: String) {
    type = ProblemType.of(details.code)
    detail = details.detail
    remedy = details.remedy ?? type.remedy
    self.instance = instance
    faults = []
  }

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("type", type.path)
      json.member("code", type.code)
      json.member("title", type.title)
      json.member("status", type.status)
      json.member("detail", detail)
      json.member("instance", instance)
      json.member("remedy", remedy)
      json.member("errors", faults)
    }
  }
}

extension DomainError.Fault: JSONWritable {
  /// A fault of the query names its parameter, one of the body has a JSON pointer.
  func write(to json: inout JSONWriter) {
    json.object { json in
      switch part {
      case .field(let field): json.member("pointer", field.pointer)
      case .parameter(let name): json.member("parameter", name)
      }
      json.member("detail", detail)
    }
  }
}
