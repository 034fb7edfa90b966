import HTTPServer
import Model

/// One operation of the API: where it is, what it takes, and what answers it.
struct Route: Sendable {
  enum Method: String, Sendable {
    case get = "GET"
    case post = "POST"
    case put = "PUT"
    case patch = "PATCH"
    case delete = "DELETE"
  }

  enum Segment: Sendable, Equatable {
    case literal(String)
    /// Taken as it comes, decoded; the name is the one in openapi.yaml.
    case parameter(String)

    /// What may be no UTF-8: programs that know no encoding name bitmaps.
    var takesBytes: Bool { self == .parameter("bitmap") }
  }

  /// What a request may bring along.
  enum Body: Sendable {
    /// None: bytes in a body are refused.
    case none
    /// A JSON object.
    case object
    /// A JSON object, or nothing where all its fields may be absent.
    case optionalObject
    /// A JSON merge patch (RFC 7396) of the resource.
    case mergePatch
    /// The bits of a bitmap: the one body that isn't JSON.
    case bits

    var mediaTypes: [String] {
      switch self {
      case .none: []
      case .object, .optionalObject: ["application/json"]
      case .mergePatch: ["application/merge-patch+json", "application/json"]
      case .bits: [BitsAnswer.contentType]
      }
    }

    /// Bytes that it may have.
    var limit: Int {
      switch self {
      case .none, .object, .optionalObject, .mergePatch: APIResponder.bodyLimit
      case .bits: BitmapBits.maximumByteCount
      }
    }
  }

  enum Work: Sendable {
    /// Needs no waiting: a read of the catalog by key or of one page, or less. Runs where the request came in, on a
    /// thread of libmicrohttpd that other connections share; long pages are made on the handlers' executor.
    case now(@Sendable (Call) throws -> HTTPResponse)
    case later(@Sendable (Call) async throws -> HTTPResponse)
    /// Moves many bytes, in or out: few at a time do, see ``Transfers``.
    case transfer(@Sendable (Call) async throws -> HTTPResponse)
    /// Tries at once; nil leaves it to `later`.
    case either(
      now: @Sendable (Call) throws -> HTTPResponse?, later: @Sendable (Call) async throws -> HTTPResponse)
  }

  let method: Method
  let segments: [Segment]
  /// What its caller must be allowed to do, whatever it names: what else that takes, the use case says.
  let verb: Verb
  /// The parameters that its query may have.
  let query: [QueryParameter]
  let body: Body
  let work: Work

  init(
    _ method: Method, _ pattern: String, needs verb: Verb, query: [QueryParameter] = [], body: Body = .none,
    _ work: Work
  ) {
    self.method = method
    self.verb = verb
    segments = pattern.split(separator: "/").map { part in
      part.hasPrefix("{") ? .parameter(String(part.dropFirst().dropLast())) : .literal(String(part))
    }
    self.query = query
    self.body = body
    self.work = work
  }

  /// As openapi.yaml writes it.
  var pattern: String {
    "/"
      + segments.map { segment in
        switch segment {
        case .literal(let text): text
        case .parameter(let name): "{\(name)}"
        }
      }.joined(separator: "/")
  }

  /// The values of the parameters in their order; nil if the path is another one.
  func match(_ path: [RawPath.Segment]) -> [RawPath.Segment]? {
    guard path.count == segments.count else { return nil }
    var values: [RawPath.Segment] = []
    for (part, segment) in zip(path, segments) {
      switch segment {
      case .literal(let text): guard part.text == text else { return nil }
      case .parameter: values.append(part)
      }
    }
    return values
  }
}

/// A parameter of a query; every one that some route takes.
enum QueryParameter: String, Sendable {
  case limit, cursor, dryRun, wait
  case image, repository, chain, backup, state, kind, mode
  case context, bitmap, offset, length, generation

  /// As in paths, see ``Route/Segment/takesBytes``.
  var takesBytes: Bool { self == .bitmap }
}
