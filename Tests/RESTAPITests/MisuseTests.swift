import Foundation
import HTTPServer
import Model
import Testing

@testable import RESTAPI

/// What no client should send gets a problem document with the right status, over the wire.
@Suite struct MisuseTests {
  private let images = "\(World.api)/images"
  private let valid = #"{"name":"vm1","source":{"kind":"file","path":"/images/vm1"},"format":"raw"}"#

  @Test(arguments: [
    (#"{"name":"vm1","source":{"kind":"file","path":"/i"},"format":"raw","colour":1}"#, "/colour"),
    (#"{"name":"vm1","source":{"kind":"file","path":"/i","mode":"rw"},"format":"raw"}"#, "/source/mode"),
    (#"{"name":1,"source":{"kind":"file","path":"/i"},"format":"raw"}"#, "/name"),
    (#"{"name":"VM 1","source":{"kind":"file","path":"/i"},"format":"raw"}"#, "/name"),
    (#"{"name":"01ARZ3NDEKTSV4RRFFQ69G5FAV","source":{"kind":"file","path":"/i"},"format":"raw"}"#, "/name"),
    (#"{"source":{"kind":"file","path":"/i"},"format":"raw"}"#, "/name"),
    (#"{"name":"vm1","source":"/i","format":"raw"}"#, "/source"),
    (#"{"name":"vm1","source":{"kind":"s3","path":"/i"},"format":"raw"}"#, "/source/kind"),
    (#"{"name":"vm1","source":{"kind":"nbd","path":"/i"},"format":"raw"}"#, "/source/uri"),
    (#"{"name":"vm1","source":{"kind":"nbd","uri":"nbd://h/x","path":"/i"},"format":"raw"}"#, "/source/path"),
    (#"{"name":"vm1","source":{"kind":"nbd","uri":"http://h/x"},"format":"raw"}"#, "/source/uri"),
    (#"{"name":"vm1","source":{"kind":"nbd","uri":"nbd:h:10809"},"format":"raw"}"#, "/source/uri"),
    (#"{"name":"vm1","source":{"kind":"file","path":"/i","uri":"nbd://h/x"},"format":"raw"}"#, "/source/uri"),
    (#"{"name":"vm1","source":{"kind":"file","path":"i"},"format":"raw"}"#, "/source/path"),
    (#"{"name":"vm1","source":{"kind":"file","path":"/i\u0000"},"format":"raw"}"#, "/source/path"),
    (#"{"name":"vm1","source":{"kind":"file"},"format":"raw"}"#, "/source/path"),
    (#"{"name":"vm1","source":{"kind":"file","path":"/i"},"format":"vmdk"}"#, "/format"),
    (#"{"name":"vm1","source":{"kind":"file","path":"/i"},"format":null}"#, "/format"),
    (#"{"name":"vm1","source":{"kind":"file","path":"/i"},"format":"raw","labels":{"a":1}}"#, "/labels"),
    (#"{"name":"vm1","source":{"kind":"file","path":"/i"},"format":"raw","labels":[]}"#, "/labels"),
    (#"{"name":"vm1","source":{"kind":"file","path":"/i"},"format":"raw","labels":{"a":"\u0000"}}"#, "/labels"),
    (#"{"name":"vm1","name":"vm2","source":{"kind":"file","path":"/i"},"format":"raw"}"#, "/name"),
    ("[]", ""),
  ])
  func aWrongFieldIsToldWithItsPlace(body: String, pointer: String) async throws {
    try await withWorld { world in
      let reply = try await world.post(images, body).expect(400, .invalidField)
      #expect(reply.json["errors"]?.items.contains { $0["pointer"] == .string(pointer) } == true, "\(reply.text)")
      #expect(try await world.get(images).json["items"] == [])
    }
  }

  @Test func allFaultsAreToldAtOnce() async throws {
    try await withWorld { world in
      let reply = try await world.post(images, #"{"nome":"vm1","source":{"kind":"tape"},"format":5}"#).expect(400)
      let pointers = reply.json["errors"]?.items.compactMap { $0["pointer"]?.text } ?? []
      #expect(Set(pointers) == ["/name", "/nome", "/source/kind", "/source/path", "/format"])
    }
  }

  @Test(arguments: ["{", "nul", #"{"name":"vm1",}"#, "{'name':1}", #"{"name":"vm1"} x"#, "\u{feff}{}"])
  func aBodyThatIsNotJSONIsMalformed(body: String) async throws {
    try await withWorld { world in try await world.post(images, body).expect(400, .malformedJSON) }
  }

  @Test func aMissingBodyIsMalformedWhereOneIsNeeded() async throws {
    try await withWorld { world in
      try await world.post(images).expect(400, .malformedJSON)
      try await world.send("PATCH", "\(images)/x").expect(400, .malformedJSON)
    }
  }

  @Test func deepNestingIsRefused() async throws {
    try await withWorld { world in
      let body = String(repeating: #"{"a":"#, count: 5000) + "1" + String(repeating: "}", count: 5000)
      try await world.post(images, body).expect(400, .malformedJSON)
    }
  }

  @Test func aHugeBodyIsRefusedHoweverItsLengthIsTold() async throws {
    try await withWorld { world in
      let huge = String(repeating: "x", count: APIResponder.bodyLimit + 1)
      try await world.post(images, huge).expect(413, .bodyTooLarge)
      let chunk = String(APIResponder.bodyLimit + 1, radix: 16) + "\r\n\(huge)\r\n0\r\n\r\n"
      try await world.post(images, chunk, headers: ["Content-Length": nil, "Transfer-Encoding": "chunked"])
        .expect(413, .bodyTooLarge)
      try await world.post(images, String(repeating: " ", count: APIResponder.bodyLimit - valid.utf8.count) + valid)
        .expect(201)
    }
  }

  @Test(arguments: [
    "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
    "application/json; charset=latin1",
    "application/merge-patch+json", "json", nil as String?,
  ])
  func aBodyOfAnotherTypeIsRefused(type: String?) async throws {
    try await withWorld { world in
      try await world.post(images, valid, headers: ["Content-Type": type]).expect(415, .unsupportedMediaType)
      #expect(try await world.get(images).json["items"] == [])
    }
  }

  @Test func anEncodedBodyIsRefused() async throws {
    try await withWorld { world in
      for coding in ["gzip", "zstd, identity", "br"] {
        try await world.post(images, valid, headers: ["Content-Encoding": coding]).expect(415, .unsupportedMediaType)
      }
      #expect(try await world.get(images).json["items"] == [])
      try await world.post(images, valid, headers: ["Content-Encoding": "identity"]).expect(201)
    }
  }

  /// The threads that all connections share make short pages only.
  @Test func longPagesAreMadeElsewhere() async throws {
    try await withWorld { world in
      let images = images
      func request(_ query: String) -> HTTPRequest {
        HTTPRequest(method: "GET", path: images, query: query, peer: .unixSocket)
      }
      #expect(world.responder.answerNow(request("limit=100")) != nil)
      #expect(world.responder.answerNow(request("limit=1001")) == nil)
      #expect(world.responder.answerNow(request("limit=1000")) == nil)
      let answer = try await world.responder.answer(request("limit=1000"))
      #expect(answer.status == 200)
      try await world.get(images + "?limit=1000").expect(200)
    }
  }

  @Test func wrongMethodsAreToldWhichOnesThereAre() async throws {
    try await withWorld { world in
      for method in ["PUT", "DELETE", "OPTIONS", "PATCH", "BREW", "post"] {
        let reply = try await world.send(method, images).expect(405, .methodNotAllowed)
        #expect(reply.header("Allow") == "POST, GET, HEAD")
      }
      let reply = try await world.post("/healthz", "{}").expect(405)
      #expect(reply.header("Allow") == "GET, HEAD")
    }
  }

  @Test func aBodyWhereNoneIsTakenIsRefused() async throws {
    try await withStockedWorld { world in
      try await world.send("GET", "\(images)/vm1", "{}").expect(400, .malformedRequest)
      try await world.send("DELETE", "\(images)/vm1", "{}").expect(400, .malformedRequest)
      try await world.get("\(images)/vm1").expect(200)
    }
  }

  @Test(arguments: [
    ("images/%00", 400), ("images/vm1%00", 400), ("images/a%2Fb", 404), ("images/%2e%2e", 404), ("images/vm1/", 404),
    ("images//vm1", 404), ("images/VM1", 404), ("images/%ff", 400), ("images/%", 400), ("images/vm%31", 200),
    ("%69mages/%76m1", 200), ("images%2Fvm1", 404), ("images/vm1?", 200), ("images/vm1?x", 400),
    ("images/vm1?%00=1", 400),
    ("backups/vm1", 404), ("backups/01ARZ3NDEKTSV4RRFFQ69G5FAV", 404), ("backups/01ARZ3NDEKTSV4RRFFQ69G5FAU", 404),
    ("jobs/nobody", 404), ("jobs/81ARZ3NDEKTSV4RRFFQ69G5FAV", 404), ("nothing", 404),
    ("images/" + String(repeating: "a", count: 5000), 404),
  ])
  func oddPathsAreRefusedOrUnderstood(path: String, status: Int) async throws {
    try await withStockedWorld { world in try await world.get("\(World.api)/\(path)").expect(status) }
  }

  @Test func namesMayBeSentInAnyEncoding() async throws {
    try await withWorld { world in
      try await world.registerImage("a.b_c-d")
      let encoded = "a.b_c-d".utf8.map { "%" + String($0, radix: 16) }.joined()
      #expect(try await world.get("\(images)/\(encoded)").expect(200)["name"] == "a.b_c-d")
    }
  }

  @Test(arguments: [
    "images?limit=0", "images?limit=1001", "images?limit=x", "images?limit=1&limit=1", "images?offset=1",
    "images?Limit=1",
    "images?cursor=never", "backups?state=done", "backups?image=%20", "backups?chain=vm1", "jobs?state=queued,,running",
    "jobs?kind=dance", "jobs?wait=1", "images/vm1/extents?context=dirty", "images/vm1/extents?length=0",
    "images/vm1/extents?offset=-1", "exports?backup=vm1", "exports?image=%20", "exports?mode=safe",
    "images/vm1/extents?limit=1001", "images/vm1/extents?bitmap=b0",
  ])
  func wrongParametersAreRefusedByName(target: String) async throws {
    try await withStockedWorld { world in
      let reply = try await world.get("\(World.api)/\(target)").expect(400, .invalidParameter)
      let isCursor = target.contains("cursor")
      #expect(isCursor || reply.json.at("errors", "0", "parameter") != nil, "\(reply.text)")
    }
  }

  @Test func dryRunMustBeABoolean() async throws {
    try await withWorld { world in
      try await world.post("\(images)?dryRun=1", valid).expect(400, .invalidParameter)
      try await world.post("\(images)?dryrun=true", valid).expect(400, .invalidParameter)
      #expect(try await world.get(images).json["items"] == [])
    }
  }

  @Test func malformedHeadersOfOursAreRefused() async throws {
    try await withStockedWorld { world in
      try await world.get("\(images)/vm1", headers: ["If-None-Match": "abc"]).expect(400, .malformedRequest)
      try await world.send("DELETE", "\(images)/vm1", headers: ["If-Match": "3"]).expect(400, .malformedRequest)
      try await world.post(images, valid, headers: ["Idempotency-Key": "a b"]).expect(400, .malformedRequest)
      try await world.post(images, valid, headers: ["Idempotency-Key": String(repeating: "k", count: 256)])
        .expect(400, .malformedRequest)
      try await world.get("\(World.api)/events", headers: ["Last-Event-ID": "x"]).expect(400, .malformedRequest)
    }
  }

  @Test func theHTTPLayersOwnRefusalsAreProblemDocumentsToo() async throws {
    try await withWorld { world in
      try await world.post(images, valid, headers: ["Content-Length": nil, "Transfer-Encoding": "gzip"])
        .expect(400, .malformedRequest)
      try await world.send("GET", "http://127.0.0.1/healthz").expect(400, .malformedRequest)
    }
  }
}
